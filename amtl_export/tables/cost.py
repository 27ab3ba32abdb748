"""Which layout and page width: bytes against gathers.

A paged lookup's time grows with the number of pages a row is cut into. Against a dense Gather it was
measured (one core, V = 10⁶, D = 64, Zipf ids, 8,192 lookups) at 1.75 for two pages and 2.45 for four,
that is 1.05 + 0.35 for each page. The width that minimises bytes times that time is taken. Widths that
do not divide D would need one more copy; a single page a row saves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def choose_layout(dims: npt.NDArray[np.int64], D: int) -> str:
    """What `--layout auto` means for a table: paged where it saves enough, else dense."""
    return "paged" if best_width(dims, D).relative_bytes <= 1 - WORTH_SAVING else "dense"
