"""FBE: every id keeps all D dims. The baseline."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.table import FieldTable


class FixedEmbedding(nn.Module):
    """Fixed-size embeddings: e of the paper, unmasked.

    Args:
        config: of the model.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        self.table = FieldTable(config.embedded, config.dim, counts, config.sparse)
        self.sizes, self.offsets = self.table.sizes, self.table.offsets

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`."""
        return self.table.take(ids, fields)

    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`."""
        return self.table.weight.detach()

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: D, or the field's dim, and 0 for padding."""
        return self.table.full_dims()
