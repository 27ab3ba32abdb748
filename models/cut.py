"""A table whose rows are cut after a fixed number of dims each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amtl_export.models.config import ModelConfig
from amtl_export.models.fbe import FixedEmbedding


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
        kept = torch.arange(self.table.dim, device=self.kept.device) < self.kept.unsqueeze(1)
        return torch.where(kept, self.table.weight.detach(), 0.0)

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: `kept`."""
        return self.kept
