"""The click-through model: an embedding method, pooling, numeric input, a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from amtl_export.models.amtl import MaskedEmbedding, OneBranchEmbedding, SoftMaskedEmbedding
from amtl_export.models.autoemb import AutoEmbedding
from amtl_export.models.autoint import AutoInt
from amtl_export.models.config import ATTENDING, SIZING, WIDE, ModelConfig, NumericField
from amtl_export.models.cut import PrunedEmbedding
from amtl_export.models.dcnv2 import DcnV2
from amtl_export.models.deepfm import DeepFm
from amtl_export.models.din import AttentionUnit
from amtl_export.models.dnn import Dnn
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.models.mde import MixedEmbedding
from amtl_export.models.ordered import OrderedEmbedding
from amtl_export.models.protocol import EmbeddingMethod

#: Method → its embedding module. Adding a method is a module, a line here and a name in `config.METHOD_NAMES`.
METHODS: dict[str, Callable[[ModelConfig, Sequence[Tensor]], nn.Module]] = {
    "fbe": FixedEmbedding,
    "mde": MixedEmbedding,
    "autoemb": AutoEmbedding,
    "amtl": MaskedEmbedding,
    "aml": OneBranchEmbedding,
    "amtl_nste": SoftMaskedEmbedding,
    "cut": PrunedEmbedding,
}

#: Backbone → its module, from rows `[B, F, D]` and numbers `[B, N]` or None to logits `[B, T]`.
BACKBONES: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "dnn": Dnn,
    "widedeep": Dnn,
    "deepfm": DeepFm,
    "dcnv2": DcnV2,
    "autoint": AutoInt,
    "din": Dnn,
}


#: Deviations from the mean beyond which all numbers are alike: one far out, or infinite, does not drown the others.
BOUND = 100.0


class NumericInput(nn.Module):
    """Raw numbers to normalised ones: transform, (x - mean) / std within ±BOUND, missing (NaN) becomes the mean."""

    mean: Tensor
    std: Tensor
    logged: Tensor

    def __init__(self, fields: Sequence[NumericField]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([f.mean for f in fields], dtype=torch.float32))
        self.register_buffer("std", torch.tensor([f.std for f in fields], dtype=torch.float32))
        self.register_buffer("logged", torch.tensor([f.transform == "log1p" for f in fields]), persistent=False)
        self.any_logged = any(f.transform == "log1p" for f in fields)

    def forward(self, numeric: Tensor) -> Tensor:
        """float32 `[B, N]` to float32 `[B, N]`."""
        x = numeric
        if self.any_logged:
            x = torch.where(self.logged, torch.sign(x) * torch.log(1 + x.abs()), x)
        x = torch.clamp((x - self.mean) / self.std, -BOUND, BOUND)
        return torch.where(torch.isnan(x), 0.0, x)


class Linear(nn.Module):
    """The wide part: a weight for each id and each number, and for each label, added up.

    Args:
        config: of the model.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        whole = tuple(replace(field, dim=None) for field in config.embedded)
        self.ids = FixedEmbedding(replace(config, dim=config.outputs, embedded=whole), counts)
        self.numeric = nn.Linear(len(config.numeric), config.outputs) if config.numeric else None


class CtrModel(nn.Module):
    """From ids and numbers to a logit, or to one for each label.

    Args:
        config: fields, method, backbone, sizes.
        counts: per embedded field, int64 `[V]` training occurrences of every id.

    Raises:
        ValueError: unknown method or backbone, counts that do not fit the fields, or no sequence for din.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        if config.method not in METHODS:
            raise ValueError(f"unknown method {config.method!r}, allowed: {', '.join(METHODS)}")
        if config.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {config.backbone!r}, allowed: {', '.join(BACKBONES)}")
        narrow = next((field.name for field in config.embedded if field.dim is not None), None)
        if narrow is not None and config.method in SIZING:
            raise ValueError(f"field {narrow} has a dim of its own, and method {config.method} chooses sizes itself")
        self.config = config
        embedding = METHODS[config.method](config, counts)
        self.embedding = OrderedEmbedding(embedding, config) if config.ordered else embedding
        self.numeric = NumericInput(config.numeric) if config.numeric else None
        self.backbone = BACKBONES[config.backbone](config)
        self.wide = Linear(config, counts) if config.backbone in WIDE else None
        attending = config.sequences if config.backbone in ATTENDING else ()
        if config.backbone in ATTENDING and not attending:
            raise ValueError(f"backbone {config.backbone} needs a sequence: a field that shares another's rows")
        self.attention = nn.ModuleDict({str(i): AttentionUnit(config.dim) for i in attending})

    def forward(self, ids: Tensor | None, numeric: Tensor | None, multi: Sequence[Tensor] = ()) -> Tensor:
        """Logits.

        Args:
            ids: int64 `[B, F]`, single-valued fields; None when there are none.
            numeric: float32 `[B, N]`, raw; NaN is missing; None when there are none.
            multi: int64 `[B, L]` for each multi-valued field, padded.

        Returns:
            float32 `[B]`; `[B, T]` of several labels.
        """
        numbers = self.numeric(numeric) if self.numeric is not None else None
        logits: Tensor = self.backbone(self._rows(self.method, ids, multi), numbers)
        if self.wide is not None:
            logits = logits + self._rows(_method(self.wide.ids), ids, multi).sum(dim=1)
            if self.wide.numeric is not None:
                logits = logits + self.wide.numeric(numbers)
        return logits if self.config.labels else logits.squeeze(-1)

    @property
    def method(self) -> EmbeddingMethod:
        """The embedding module, as what it can do."""
        return _method(self.embedding)

    @property
    def chooser(self) -> nn.Module:
        """The module that decides dims: the embedding method, below the basis that its rows may be written in."""
        return self.embedding.rows if isinstance(self.embedding, OrderedEmbedding) else self.embedding

    def _rows(self, method: EmbeddingMethod, ids: Tensor | None, multi: Sequence[Tensor]) -> Tensor:
        """One row a field, `[B, F, D]`, in the order of `config.embedded`."""
        rows = [] if ids is None else [method.lookup(ids, self.config.single)]
        for position, values in zip(self.config.multi, multi, strict=True):
            if str(position) in self.attention:
                pooled = self._attended(method, values, position, rows[0])
            else:
                pooled = self._pooled(method, values, position)
            rows.append(pooled.unsqueeze(1))
        return torch.cat(rows, dim=1)

    def _attended(self, method: EmbeddingMethod, ids: Tensor, position: int, single: Tensor) -> Tensor:
        """A sequence's rows, weighed by how they fit the candidate's row, added up: `[B, D]`."""
        candidate = single[:, self.config.single.index(self.config.owners[position])]
        present = torch.ne(ids, self.config.embedded[position].padding or 0)
        pooled: Tensor = self.attention[str(position)](method.lookup(ids, (position,)), candidate, present)
        return pooled

    def _pooled(self, method: EmbeddingMethod, ids: Tensor, position: int) -> Tensor:
        """Sum or mean over a multi-valued field's values, `[B, D]`; padding rows are zero."""
        field = self.config.embedded[position]
        total = method.lookup(ids, (position,)).sum(dim=1)
        if field.pool == "sum":
            return total
        present = torch.ne(ids, field.padding or 0).sum(dim=1, keepdim=True).clamp(min=1)
        return total / present.to(total.dtype)


def _method(module: nn.Module) -> EmbeddingMethod:
    assert isinstance(module, EmbeddingMethod)
    return module
