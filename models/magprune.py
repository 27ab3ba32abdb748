"""MagPrune: a fixed-size table whose trailing dims are cut by magnitude. The baseline to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from amtl_export.models.cut import CutEmbedding


class PrunedEmbedding(CutEmbedding):
    """Trains like FBE until `prune` ends each governed row at its last number that is large enough.

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
            self.kept[governed] = D
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
