"""Tables whose rows are cut after a number of dims each: fixed from outside, or by the magnitude of what is cut off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amtl_export.models.config import ModelConfig
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.models.table import zero_past


class CutEmbedding(FixedEmbedding):
    """e_hat = e with zeros past `kept`, which no gradient changes.

    Args:
        config: of the model.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    #: int64 `[V_total]`, dims of every row; D until somebody sets them.
    kept: Tensor

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__(config, counts)
        self.register_buffer("kept", self.table.full_dims())

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`, zero past their dims."""
        rows = super().lookup(ids, fields)
        dims = self.kept[self.table.shift(ids, fields)].unsqueeze(-1)
        return torch.where(torch.arange(self.table.dim, device=rows.device) < dims, rows, 0.0)

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`, zero past `frozen_dims`."""
        return zero_past(self.table.weight.detach(), self.kept)

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: `kept`."""
        return self.kept


class PrunedEmbedding(CutEmbedding):
    """A table cut as trained, the baseline: FBE until `prune` ends each governed row at its last large number.

    For a threshold tau, the dims of a row are the position of its last |e_j| >= tau, at least 1;
    `prune` finds the tau that gives the mean dims asked for. Numbers that were cut learn nothing more.
    """

    @torch.no_grad()
    def prune(self, ratio: float) -> None:
        """Set the dims; their mean over the governed rows is at most ratio·D, and less by at most one row's ties.

        Args:
            ratio: within [1/D, 1].
        """
        D = self.table.dim
        governed = self._governed_rows()
        # The largest magnitude from position j on: a row keeps more than j dims if and only if it is >= tau.
        tail = self.table.weight[governed].abs().flip(1).cummax(dim=1).values.flip(1)[:, 1:]  # [R, D - 1]
        allowed = int(ratio * D * len(governed) + 1e-9) - len(governed)  # beyond one dim a row
        if allowed >= tail.numel():
            self.kept[governed] = self.table.full_dims()[governed]
            return
        largest = tail.flatten().sort(descending=True).values
        dims = 1 + (tail > largest[allowed]).sum(dim=1)
        self.kept[governed] = dims

    def _governed_rows(self) -> Tensor:
        """Table rows of the governed fields, padding left out."""
        rows = []
        padding = self.table.full_dims() == 0
        for field, size, offset in zip(self.table.fields, self.sizes, self.offsets, strict=True):
            if field.governed and field.shares is None:
                field_rows = torch.arange(offset, offset + size, device=self.kept.device)
                rows.append(field_rows[~padding[field_rows]])
        return torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64, device=self.kept.device)
