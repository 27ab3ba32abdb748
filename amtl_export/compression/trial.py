"""A cut that is tried: its rows are cut, and rounded to their value type, when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import ComputedEmbedding, FrozenEmbedding
from amtl_export.tables.values import ValueType, check_reach, naming_table, scale_unit, stored, value_types

_CHUNK = 1 << 16


class TrialEmbedding(ComputedEmbedding):
    """A table that answers as the cut one would, over the rows as they were.

    Args:
        rows: float32 `[V_total, D]`.
        dims: integers `[V_total]`, 0..D; what is past them is read as zeros.
        sizes: V of each field.
        offsets: first row of each field.
        dtype: of the stored numbers.
    """

    def __init__(
        self,
        rows: Tensor,
        dims: Tensor,
        sizes: Sequence[int],
        offsets: Sequence[int],
        dtype: ValueType = "fp32",
    ) -> None:
        super().__init__(rows, dims, sizes, offsets)
        self.dtype = dtype
        self._unit = 1.0 if dtype == "fp32" else self._scale_unit()

    def read(self, places: Tensor) -> Tensor:
        """Rows `[*places, D]` at places of the table, int64."""
        cut = self._cut(places)
        if self.dtype == "fp32":
            return cut
        flat = cut.reshape(-1, cut.shape[-1]).numpy()
        return torch.from_numpy(stored(flat, self.dtype, unit=self._unit).read()).view(cut.shape)

    def _cut(self, places: Tensor) -> Tensor:
        D = self.rows.shape[1]
        return torch.where(torch.arange(D) < self.dims[places].unsqueeze(-1), self.rows[places], 0.0)

    def _scale_unit(self) -> float:
        """The unit of the whole table's scales."""
        most = 0.0
        for start in range(0, len(self.rows), _CHUNK):
            part = torch.arange(start, min(start + _CHUNK, len(self.rows)))
            largest = self._cut(part).abs().amax(dim=1).numpy()
            check_reach(largest, self.dtype, start)
            most = max(most, float(largest.max()))
        return scale_unit(most, self.dtype)


def rounded(frozen: FrozenModel, dtype: ValueType) -> FrozenModel:
    """A model with the numbers that a file of this value type holds, rounded when they are read.

    Raises:
        InputError: a number is too large for its value type.
    """
    types = {path: own for path, own in value_types(frozen, dtype).items() if own != "fp32"}
    tables = {path: _rounded(path, frozen.tables[path], own) for path, own in types.items()}
    return replace(frozen.with_tables(tables), trained=None) if tables else frozen


def _rounded(path: str, table: FrozenEmbedding, dtype: ValueType) -> TrialEmbedding:
    with naming_table(path):
        return TrialEmbedding(table.rows, table.dims, table.sizes, table.offsets, dtype)
