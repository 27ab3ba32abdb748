"""AutoEmb (Zhao et al., "AutoEmb: Automated Embedding Dimensionality Search in Streaming Recommendations",
2020): several embeddings of different sizes for every id, mixed by a controller that sees its popularity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.selection import frequency_features, mlp
from amtl_export.models.table import FieldTable


class SoftSelection(nn.Module):
    """One field's controller and transformations.

        alpha = softmax(controller(s)),  e = sum over k of alpha_k · tanh(BatchNorm(W_k e_k + b_k))

    Args:
        counts: int64 `[V]`.
        widths: d_k of each candidate, the last one D.
        config: of the model: features and hidden widths of the selection network.
    """

    features: Tensor

    def __init__(self, counts: Tensor, widths: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.widths = tuple(widths)
        selection = config.selection
        self.register_buffer("features", frequency_features(counts, selection.features), persistent=False)
        self.controller = mlp(len(selection.features), selection.hidden, len(self.widths))
        self.transforms = nn.ModuleList(nn.Linear(width, config.dim) for width in self.widths)
        self.norms = nn.ModuleList(nn.BatchNorm1d(config.dim) for _ in self.widths)

    def forward(self, candidates: Tensor, ids: Tensor) -> Tensor:
        """float32 `[n, D]` from the candidates side by side `[n, sum of d_k]` of ids `[n]`."""
        alpha = self.controller(self.features[ids]).softmax(dim=-1)  # [n, K]
        parts = candidates.split(self.widths, dim=-1)
        steps = zip(self.transforms, self.norms, parts, strict=True)
        transformed = torch.stack([torch.tanh(norm(linear(part))) for linear, norm, part in steps], dim=-1)  # [n, D, K]
        row: Tensor = (transformed @ alpha.unsqueeze(-1)).squeeze(-1)
        return row


class AutoEmbedding(nn.Module):
    """Soft selection between candidate sizes for governed fields; D numbers for the others.

    The controller learns from batches of the validation split, everything else from the training split,
    in turns (first-order DARTS). It stays soft in serving, so every id's answer is a row of D numbers that
    depends on nothing but the id: frozen, it is a dense table, smaller than its candidates together.

    Args:
        config: of the model; `config.candidates` are the sizes as parts of D.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        self.dim = config.dim
        self.widths = sorted({max(1, round(part * config.dim)) for part in config.candidates} | {config.dim})
        self.table = FieldTable(config.embedded, sum(self.widths), counts, config.sparse)
        self.sizes, self.offsets = self.table.sizes, self.table.offsets
        self._owners = config.owners
        self.selections = nn.ModuleDict(
            {
                str(i): SoftSelection(count, self.widths, config)
                for i, (field, count) in enumerate(zip(config.embedded, counts, strict=True))
                if field.governed and field.shares is None
            }
        )

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`; padding is zero."""
        candidates = self.table.take(ids, fields)
        if len(fields) == 1:
            return self._selected(candidates, ids, fields[0])
        columns = [self._selected(candidates[:, c], ids[:, c], field) for c, field in enumerate(fields)]
        return torch.stack(columns, dim=1)

    def _selected(self, candidates: Tensor, ids: Tensor, field: int) -> Tensor:
        """`[*ids.shape, D]` of one field."""
        name = str(self._owners[field])
        if name not in self.selections:
            return candidates[..., -self.dim :]
        rows = self.selections[name](candidates.flatten(0, -2), ids.flatten()).unflatten(0, ids.shape)
        padding = self.table.fields[field].padding
        if padding is None:
            return torch.as_tensor(rows)
        return torch.where((ids == padding).unsqueeze(-1), 0.0, rows)

    def controller_parameters(self) -> Iterator[nn.Parameter]:
        """What validation batches train."""
        for selection in self.selections.values():
            assert isinstance(selection, SoftSelection)
            yield from selection.controller.parameters()

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`: every id's answer in evaluation."""
        training = self.training
        self.eval()
        rows = torch.zeros(self.table.rows, self.dim, device=self.table.weight.device)
        for field, size in enumerate(self.sizes):
            if self._owners[field] == field:
                own = self.table.part(rows, field)
                for ids in torch.arange(size, device=rows.device).split(1 << 16):
                    own[ids] = self.lookup(ids.unsqueeze(1), (field,)).squeeze(1)
        self.train(training)
        return rows.mul_((self.frozen_dims() > 0).unsqueeze(1))

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: D, and 0 for padding."""
        return torch.where(self.table.full_dims() > 0, self.dim, 0)
