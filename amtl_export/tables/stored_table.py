"""A table that answers with the numbers that a bundle reads back."""

from __future__ import annotations

import torch
from torch import Tensor

from amtl_export.freezing.table import ComputedEmbedding, FrozenEmbedding
from amtl_export.tables.values import Stored


class StoredEmbedding(ComputedEmbedding):
    """A table whose rows are dequantized when they are read.

    Args:
        table: as it was.
        stored: its rows in their value type.
    """

    def __init__(self, table: FrozenEmbedding, stored: Stored) -> None:
        shape = torch.empty(stored.numbers.shape, device="meta")
        super().__init__(shape, table.dims, table.sizes, table.offsets)
        self.stored = stored

    def read(self, places: Tensor) -> Tensor:
        """Rows `[*places, D]` at places of the table, int64."""
        rows = torch.from_numpy(self.stored.read(places.reshape(-1).numpy()))
        return rows.view(*places.shape, rows.shape[-1])
