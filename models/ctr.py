"""The click-through model: an embedding method, pooling, numeric input, a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amtl_export.models.amtl import MaskedEmbedding, OneBranchEmbedding, SoftMaskedEmbedding
from amtl_export.models.config import ModelConfig, NumericField
from amtl_export.models.dnn import Dnn
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.models.protocol import EmbeddingMethod

#: Method → its embedding module. Adding a method is a module and a line here.
METHODS: dict[str, Callable[[ModelConfig, Sequence[Tensor]], nn.Module]] = {
    "fbe": FixedEmbedding,
    "amtl": MaskedEmbedding,
    "aml": OneBranchEmbedding,
    "amtl_nste": SoftMaskedEmbedding,
}

#: Backbone → its module, called with rows `[B, F, D]` and numbers `[B, N]` or None.
BACKBONES: dict[str, Callable[[ModelConfig], nn.Module]] = {"dnn": Dnn}


class NumericInput(nn.Module):
    """Raw numbers to normalised ones: transform, (x - mean) / std, missing (NaN) becomes the mean."""

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
        x = (x - self.mean) / self.std
        return torch.where(torch.isnan(x), 0.0, x)


class CtrModel(nn.Module):
    """From ids and numbers to a logit.

    Args:
        config: fields, method, backbone, sizes.
        counts: per embedded field, int64 `[V]` training occurrences of every id.

    Raises:
        ValueError: unknown method or backbone, or counts that do not fit the fields.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        if config.method not in METHODS:
            raise ValueError(f"unknown method {config.method!r}, allowed: {', '.join(METHODS)}")
        if config.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {config.backbone!r}, allowed: {', '.join(BACKBONES)}")
        self.config = config
        self.embedding = METHODS[config.method](config, counts)
        self.numeric = NumericInput(config.numeric) if config.numeric else None
        self.backbone = BACKBONES[config.backbone](config)

    def forward(self, ids: Tensor | None, numeric: Tensor | None, multi: Sequence[Tensor] = ()) -> Tensor:
        """Logits.

        Args:
            ids: int64 `[B, F]`, single-valued fields; None when there are none.
            numeric: float32 `[B, N]`, raw; NaN is missing; None when there are none.
            multi: int64 `[B, L]` for each multi-valued field, padded.

        Returns:
            float32 `[B]`.
        """
        rows = [] if ids is None else [self.method.lookup(ids, self.config.single)]  # [B, F, D]
        for position, values in zip(self.config.multi, multi, strict=True):
            rows.append(self._pooled(values, position).unsqueeze(1))  # [B, 1, D]
        numbers = self.numeric(numeric) if self.numeric is not None else None
        logit: Tensor = self.backbone(torch.cat(rows, dim=1), numbers)
        return logit

    @property
    def method(self) -> EmbeddingMethod:
        """The embedding module, as what it can do."""
        assert isinstance(self.embedding, EmbeddingMethod)
        return self.embedding

    def _pooled(self, ids: Tensor, position: int) -> Tensor:
        """Sum or mean over a multi-valued field's values, `[B, D]`; padding rows are zero."""
        field = self.config.embedded[position]
        total = self.method.lookup(ids, (position,)).sum(dim=1)
        if field.pool == "sum":
            return total
        present = torch.ne(ids, field.padding or 0).sum(dim=1, keepdim=True).clamp(min=1)
        return total / present.to(total.dtype)
