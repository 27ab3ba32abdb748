"""What a layout costs, from the dims alone: bytes, and the time of a lookup against a dense Gather's.

Times were measured on one core: V = 10⁶, D = 64, 8,192 lookups. They are for choosing, and off by a fifth at times.

- `paged`: 1.75 for two pages a row and 2.45 for four, that is 1.05 + 0.35 for each page. Widths that do not divide D
  would need one more copy; a single page a row saves nothing.
- `blocks`: 1.0 to 1.4 for a table that is narrower than D; 1.1 to 1.8 for two blocks and mean dims of 0.1 D, 1.5 to 2.2
  for three or four; 1.8 to 3.2 for mean dims of 0.4 D. `_BlockTime` was fitted to 45 such ratios, on Zipf and on
  uniform ids.

Of the widths of one layout, those that minimise bytes times time are taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from amtl_export.principal.dims import Dims
from amtl_export.tables.arrange import block_bits
from amtl_export.tables.values import SCALED, ValueType

#: Bytes of a stored number; a row takes whole ones, see `row_bytes`.
ITEM_BYTES: dict[ValueType, float] = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}

#: Blocks of a table, at most. Bytes hardly fall from there on; each block is one more Gather.
MOST_BLOCKS = 4

#: Rows that are looked at at a time.
_CHUNK = 1 << 20

#: Ragged: benchmarks/results, lookup.
_NATIVE_TIME, _FALLBACK_TIME = 0.7, 13.0

#: A dense lookup of a value type against one of fp32: benchmarks/results, lookup.
_DENSE_TIME: dict[ValueType, float] = {"fp32": 1.0, "fp16": 1.0, "int8": 1.6, "int4": 2.2}

_POSITION_BYTES = 4


class _BlockTime:
    """What a lookup in blocks takes, where one in a dense table takes 1: a sum of these.

    Attributes:
        FIRST: the first block.
        LATER: each later one.
        POSITIONS: where rows are not in order. In fp32 they lie in the first block; in fp16 and int8 in an array of
            their own, a cache miss more, which counts less in int8, whose dense lookup is slower.
        READ: times the numbers of all blocks, as a part of a dense table's: the more, the fewer are in the caches.
        MISS: times the rows of all later blocks, as a part of the table's: in each its row is a cache miss more.
    """

    FIRST, LATER, READ, MISS = 0.85, 0.1, 0.5, 1.1
    POSITIONS: ClassVar[dict[ValueType, float]] = {"fp32": 0.2, "fp16": 0.6, "int8": 0.2}


#: The dynamic programme minimises bytes and so many of a dense row's for each row of a later block, which costs time.
_ROW_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Cost:
    """What a layout would cost.

    Attributes:
        widths: numbers of a page, or of each block.
        bytes: of all arrays.
        relative_bytes: against dense in fp32.
        relative_time: expected lookup time against dense in fp32.
    """

    widths: tuple[int, ...]
    bytes: int
    relative_bytes: float
    relative_time: float

    @property
    def score(self) -> float:
        """Bytes times time; smaller is better."""
        return self.relative_bytes * self.relative_time


def dim_counts(dims: Dims, D: int) -> npt.NDArray[np.int64]:
    """int64 `[D + 1]`: how many rows have 0 to D dims."""
    counts = np.zeros(D + 1, np.int64)
    for start in range(0, len(dims), _CHUNK):
        counts += np.bincount(dims[start : start + _CHUNK], minlength=D + 1)
    return counts


def row_bytes(numbers: int, dtype: ValueType) -> int:
    """Bytes of a row of so many numbers."""
    return int(np.ceil(ITEM_BYTES[dtype] * numbers))


def rows_bytes(dims: Dims, D: int, dtype: ValueType) -> int:
    """Bytes of the numbers of rows that are cut at their dims."""
    return int(dim_counts(dims, D) @ [row_bytes(k, dtype) for k in range(D + 1)])


def dense_cost(V: int, D: int, dtype: ValueType = "fp32") -> Cost:
    """The cost of the dense layout."""
    return _cost((), dense_bytes(V, D, dtype), V, D, _DENSE_TIME[dtype])


def _cost(widths: tuple[int, ...], size: int, V: int, D: int, time: float) -> Cost:
    return Cost(widths, size, size / max(4 * V * D, 1), time)


def paged_cost(dims: Dims, D: int, width: int, dtype: ValueType = "fp32") -> Cost:
    """The cost of one page width, from the dims alone.

    Args:
        dims: integers `[V]`.
        D: floats of a full row.
        width: c.
        dtype: of the stored numbers.
    """
    parts, V = -(-D // width), len(dims)
    pages = 1 + int(dim_counts(dims, D) @ -(-np.arange(D + 1) // width))
    size = pages * row_bytes(width, dtype) + 4 * V * parts + scale_bytes(V, dtype)
    return _cost((width,), size, V, D, (1.05 + 0.35 * parts) * _DENSE_TIME[dtype])


def scale_bytes(V: int, dtype: ValueType) -> int:
    """Bytes of the quantized scales of V rows."""
    return 2 * V if dtype in SCALED else 0


def dense_bytes(V: int, D: int, dtype: ValueType = "fp32") -> int:
    """Bytes of the dense layout."""
    return V * row_bytes(D, dtype) + scale_bytes(V, dtype)


def ragged_bytes(dims: Dims, D: int, dtype: ValueType = "fp32") -> int:
    """Bytes of the ragged layout: values, two for each row's offset and two for its scale, eight for each block."""
    values = max(rows_bytes(dims, D, dtype), row_bytes(1, dtype))
    blocks = (len(dims) >> block_bits(-(-D // 2) if dtype == "int4" else D)) + 1
    return values + (2 * (len(dims) + 1)) * (2 if dtype in SCALED else 1) + 8 * blocks


def ragged_cost(dims: Dims, D: int, dtype: ValueType = "fp32", *, native: bool) -> Cost:
    """The cost of the ragged layout, by its operator or by that operator's fallback."""
    time = _NATIVE_TIME if native else _FALLBACK_TIME
    return _cost((), ragged_bytes(dims, D, dtype), len(dims), D, time)


def candidate_widths(D: int) -> list[int]:
    """Page widths worth asking for: the divisors of D from 4 on, and D only if there is no other."""
    return [c for c in range(4, D) if D % c == 0] or [D]


def best_pages(dims: Dims, D: int, dtype: ValueType = "fp32", most: float = np.inf) -> Cost:
    """The page width with the least bytes times time, among those of `most` bytes if there are any."""
    return _best((paged_cost(dims, D, width, dtype) for width in candidate_widths(D)), most)


def _best(costs: Iterable[Cost], most: float) -> Cost:
    return min(costs, key=lambda cost: (cost.bytes > most, cost.score))


@dataclass(frozen=True)
class _Lengths:
    """What blocks need to know of dims.

    Attributes:
        longer: int64 `[D + 1]`, rows with more than k dims.
        in_order: bool `[D + 1]`, whether those are the first rows of the table.
    """

    rows: int
    dim: int
    longer: npt.NDArray[np.int64]
    in_order: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, dims: Dims, D: int) -> _Lengths:
        longer = len(dims) - np.cumsum(dim_counts(dims, D))
        last = np.full(D + 2, -1)  # row with k dims
        for start in range(0, len(dims), _CHUNK):
            part = dims[start : start + _CHUNK]
            last[part] = np.arange(start, start + len(part))  # of equal ones the last is kept
        last = np.maximum.accumulate(last[::-1])[::-1][1:]  # [D + 1] the last row with more than k dims
        return cls(len(dims), D, longer, last < longer)


def blocks_cost(dims: Dims, widths: tuple[int, ...], dtype: ValueType = "fp32") -> Cost:
    """The cost of blocks of some widths, from the dims alone.

    Args:
        dims: integers `[V]`.
        widths: columns of each block, together D.
        dtype: of the stored numbers.
    """
    return _blocks_cost(_Lengths.of(dims, sum(widths)), widths, dtype)


def _blocks_cost(lengths: _Lengths, widths: tuple[int, ...], dtype: ValueType) -> Cost:
    V, D = lengths.rows, lengths.dim
    if len(widths) == 1:
        return _cost(widths, dense_bytes(V, D, dtype), V, D, _DENSE_TIME[dtype])
    ends = np.cumsum(widths)[:-1]
    later = lengths.longer[ends]  # [G - 1] rows of each later block, but for the zeros
    numbers = V * widths[0] + int((later + 1) @ widths[1:])
    size = int(ITEM_BYTES[dtype] * numbers) + scale_bytes(V, dtype)
    time = _BlockTime.FIRST + _BlockTime.LATER * len(later)
    time += _BlockTime.READ * numbers / max(V * D, 1) + _BlockTime.MISS * int(later.sum()) / max(V, 1)
    if not lengths.in_order[ends].all():
        size += _POSITION_BYTES * V
        time += _BlockTime.POSITIONS[dtype]
    return _cost(widths, size, V, D, time * _DENSE_TIME[dtype])


def best_blocks(dims: Dims, D: int, dtype: ValueType = "fp32", most: float = np.inf) -> Cost:
    """The widths of blocks with the least bytes times time, among those of `most` bytes if there are any."""
    lengths = _Lengths.of(dims, D)
    candidates = {
        widths
        for in_order, weight in itertools.product((True, False), _ROW_WEIGHTS)
        for widths in _cuts(lengths, 4 * D / ITEM_BYTES[dtype] * weight, in_order=in_order)
    }
    return _best((_blocks_cost(lengths, widths, dtype) for widths in sorted(candidates)), most)


def _cuts(lengths: _Lengths, row_numbers: float, *, in_order: bool) -> Iterator[tuple[int, ...]]:
    """For each number of blocks, the widths of the fewest numbers, by a dynamic programme over where blocks end.

    A later block has its columns of every row with dims in it, and a row of zeros.

    Args:
        lengths: of the table.
        row_numbers: what a row of a later block costs beside, in numbers.
        in_order: whether blocks may end only where no positions are needed.
    """
    V, longer = lengths.rows, lengths.longer
    worth = np.append(longer[1:-1] != longer[:-2], True)  # some row ends there, or all columns do
    worth[0] |= V > 0  # what a table without dims is cut to
    ends = 1 + np.flatnonzero(worth & (lengths.in_order[1:] if in_order else True))  # [E]
    columns = np.subtract.outer(-ends, -ends)  # [E, E] of a block from one end to another
    later = (longer[ends, None] + 1.0) * columns + row_numbers * longer[ends, None]
    later[np.tri(len(ends), dtype=bool)] = np.inf  # none ends before it begins
    least = (V * ends).astype(np.float64)  # [E] everything up to an end
    cuts = [(int(end),) for end in ends]
    for _ in range(min(MOST_BLOCKS, len(ends))):
        yield tuple(np.diff(cuts[-1], prepend=0).tolist())
        total = least[:, None] + later
        least, before = total.min(axis=0), total.argmin(axis=0)
        cuts = [(*cuts[i], int(end)) for i, end in zip(before, ends, strict=True)]


def least_bytes(dims: Dims, D: int) -> int:
    """Bytes of a table in the smallest of all layouts, in full precision."""
    V = len(dims)
    return min(dense_bytes(V, D), best_pages(dims, D).bytes, best_blocks(dims, D).bytes, ragged_bytes(dims, D))
