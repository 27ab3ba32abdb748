"""Which layout and page width: bytes against gathers.

A paged lookup's time grows with the number of pages a row is cut into. Against a dense Gather it was
measured (one core, V = 10⁶, D = 64, Zipf ids, 8,192 lookups) at 1.75 for two pages and 2.45 for four,
that is 1.05 + 0.35 for each page. The width that minimises bytes times that time is taken. Widths that
do not divide D would need one more copy; a single page a row saves nothing.

Blocks store no number for a row, so they are the smallest, but their nodes grow with the runs of equal dims:
with three or four runs a field a whole model took 1.1 to 1.9 times the paged layout's time at 0.7 of its bytes.
So they are taken for tables that are built in blocks (mde), whose projections cost more than that anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from amtl_export.tables.layout import equal_runs

#: `auto` leaves a table dense unless paging saves at least this part of its bytes.
WORTH_SAVING = 0.10


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


def paged_cost(dims: npt.NDArray[np.int64], D: int, width: int) -> PagedCost:
    """The cost of one page width, from the dims alone.

    Args:
        dims: int64 `[V]`.
        D: floats of a full row.
        width: c.
    """
    parts = -(-D // width)
    pages = 1 + int((-(-dims // width)).sum())
    size = 4 * (pages * width + len(dims) * parts)
    return PagedCost(width, size, size / max(4 * len(dims) * D, 1), 1.05 + 0.35 * parts)


def candidate_widths(D: int) -> list[int]:
    """Page widths worth asking for: the divisors of D from 4 on, and D only if there is no other."""
    return [c for c in range(4, D) if D % c == 0] or [D]


def best_width(dims: npt.NDArray[np.int64], D: int) -> PagedCost:
    """The page width with the least bytes times time."""
    return min((paged_cost(dims, D, width) for width in candidate_widths(D)), key=lambda cost: cost.score)


def blocks_bytes(dims: npt.NDArray[np.int64]) -> int:
    """Bytes of the blocks layout, from the dims alone."""
    bounds = equal_runs(dims)
    return 4 * int(((np.diff(bounds) + 2) * dims[bounds[:-1]]).sum())


def choose_layout(
    dims: npt.NDArray[np.int64], D: int, *, in_blocks: bool = False
) -> Literal["dense", "paged", "blocks"]:
    """What `--layout auto` means for a table: blocks or paged where they save enough, else dense.

    Args:
        dims: int64 `[V]`.
        D: floats of a full row.
        in_blocks: whether the method gives dims to blocks of neighbouring rows.
    """
    most = (1 - WORTH_SAVING) * 4 * len(dims) * D
    if in_blocks and blocks_bytes(dims) <= most:
        return "blocks"
    return "paged" if best_width(dims, D).bytes <= most else "dense"


def least_bytes(dims: npt.NDArray[np.int64], D: int) -> int:
    """Bytes of a table in the smallest of all layouts."""
    ragged = 4 * (int(dims.sum()) + len(dims) + 1)
    return min(4 * len(dims) * D, best_width(dims, D).bytes, blocks_bytes(dims), ragged)
