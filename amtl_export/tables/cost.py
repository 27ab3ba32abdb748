"""What a layout costs, from the dims alone: bytes against gathers.

A paged lookup's time grows with the number of pages a row is cut into. Against a dense Gather it was
measured (one core, V = 10⁶, D = 64, Zipf ids, 8,192 lookups) at 1.75 for two pages and 2.45 for four,
that is 1.05 + 0.35 for each page. The width that minimises bytes times that time is taken. Widths that
do not divide D would need one more copy; a single page a row saves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amtl_export.tables.layout import block_bits, equal_runs
from amtl_export.tables.values import SCALED, ValueType

#: Bytes of a stored number; a row takes whole ones, see `row_bytes`.
ITEM_BYTES: dict[ValueType, float] = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}


@dataclass(frozen=True)
class PagedCost:
    """What a page width would cost.

    Attributes:
        width: c.
        bytes: of pages and page table.
        relative_bytes: against dense.
        relative_time: expected lookup time against dense.
    """

    width: int
    bytes: int
    relative_bytes: float
    relative_time: float

    @property
    def score(self) -> float:
        """Bytes times time; smaller is better."""
        return self.relative_bytes * self.relative_time


def row_bytes(numbers: npt.NDArray[np.int64] | int, dtype: ValueType) -> int:
    """Bytes of rows, each of so many numbers."""
    return int(np.ceil(np.multiply(ITEM_BYTES[dtype], numbers)).sum())


def paged_cost(dims: npt.NDArray[np.int64], D: int, width: int, dtype: ValueType = "fp32") -> PagedCost:
    """The cost of one page width, from the dims alone.

    Args:
        dims: int64 `[V]`.
        D: floats of a full row.
        width: c.
        dtype: of the stored numbers.
    """
    parts = -(-D // width)
    pages = 1 + int((-(-dims // width)).sum())
    size = pages * row_bytes(width, dtype) + 4 * len(dims) * parts + scale_bytes(len(dims), dtype)
    return PagedCost(width, size, size / max(4 * len(dims) * D, 1), 1.05 + 0.35 * parts)


def scale_bytes(V: int, dtype: ValueType) -> int:
    """Bytes of the quantized scales of V rows."""
    return 2 * V if dtype in SCALED else 0


def dense_bytes(V: int, D: int, dtype: ValueType = "fp32") -> int:
    """Bytes of the dense layout."""
    return V * row_bytes(D, dtype) + scale_bytes(V, dtype)


def ragged_bytes(dims: npt.NDArray[np.int64], D: int, dtype: ValueType = "fp32") -> int:
    """Bytes of the ragged layout: values, two for each row's offset and two for its scale, eight for each block."""
    values = max(row_bytes(dims, dtype), row_bytes(1, dtype))
    blocks = (len(dims) >> block_bits(-(-D // 2) if dtype == "int4" else D)) + 1
    return values + (2 * (len(dims) + 1)) * (2 if dtype in SCALED else 1) + 8 * blocks


def candidate_widths(D: int) -> list[int]:
    """Page widths worth asking for: the divisors of D from 4 on, and D only if there is no other."""
    return [c for c in range(4, D) if D % c == 0] or [D]


def best_width(dims: npt.NDArray[np.int64], D: int, dtype: ValueType = "fp32") -> PagedCost:
    """The page width with the least bytes times time."""
    return min((paged_cost(dims, D, width, dtype) for width in candidate_widths(D)), key=lambda cost: cost.score)


def blocks_bytes(dims: npt.NDArray[np.int64]) -> int:
    """Bytes of the blocks layout, from the dims alone."""
    bounds = equal_runs(dims)
    return 4 * int(((np.diff(bounds) + 2) * dims[bounds[:-1]]).sum())


def least_bytes(dims: npt.NDArray[np.int64], D: int) -> int:
    """Bytes of a table in the smallest of all layouts, in full precision."""
    return min(dense_bytes(len(dims), D), best_width(dims, D).bytes, blocks_bytes(dims), ragged_bytes(dims, D))
