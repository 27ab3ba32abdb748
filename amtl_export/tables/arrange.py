"""Rows arranged in each layout. Blocks and ragged rows are made a chunk at a time, and may be files: see `scratch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.scratch import scratch
from amtl_export.tables.layout import Blocks, Dense, Ints, Paged, PairedDense, Ragged
from amtl_export.tables.values import Stored, pairs

#: Every whole number up to here is a float32.
_FLOAT_INTEGERS = 1 << 24

#: Rows that are worked on at a time.
_CHUNK = 1 << 16


def dense(rows: Stored) -> Dense | PairedDense:
    """The baseline layout."""
    if rows.paired:
        assert rows.scales is not None
        D = rows.numbers.shape[1]
        half = -(-D // 2)
        second = np.pad(rows.numbers[:, half:], ((0, 0), (0, half - D // 2)))
        return PairedDense(pairs(rows.numbers[:, :half], second), D, rows.scales)
    return Dense(rows.numbers, rows.scales)


def paged(rows: Stored, dims: Ints, width: int) -> Paged:
    """Cut rows into pages.

    Args:
        rows: `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
        width: c, 1..D.

    Raises:
        ValueError: width or dims out of range, more pages than int32 can number, or values of int4.
    """
    if rows.paired:
        raise ValueError("pages do not hold int4")
    numbers = rows.numbers
    V, D = numbers.shape
    if not 1 <= width <= D:
        raise ValueError(f"page width must be within 1..{D}, got {width}")
    if len(dims) != V or (V and (dims.min() < 0 or dims.max() > D)):
        raise ValueError(f"dims must be {V} numbers within 0..{D}")
    parts = -(-D // width)
    used = -(-dims // width)
    kept = np.arange(parts) < used[:, None]
    count = 1 + int(used.sum())
    if count > np.iinfo(np.int32).max:
        raise ValueError(f"{count} pages are more than int32 can number; choose a wider page than {width}")
    page_table = np.zeros((V, parts), dtype=np.int32)
    page_table[kept] = np.arange(1, count, dtype=np.int32)
    pages = np.zeros((count, width), dtype=numbers.dtype)
    for start in range(0, V, _CHUNK):  # bounds the padded copy
        chunk = slice(start, start + _CHUNK)
        padded = np.zeros((len(numbers[chunk]), parts * width), dtype=numbers.dtype)
        padded[:, :D] = numbers[chunk]
        pages[page_table[chunk][kept[chunk]]] = padded.reshape(-1, parts, width)[kept[chunk]]
    return Paged(pages, page_table, D, rows.scales)


def later_blocks(dims: Ints, widths: Sequence[int]) -> npt.NDArray[np.int16]:
    """int16 `[V]`: how many blocks behind the first each row has dims in.

    Args:
        dims: integers `[V]`.
        widths: columns of each block, together D.
    """
    by_dims = np.searchsorted(np.cumsum(widths), np.arange(sum(widths) + 1)).astype(np.int16)
    return by_dims[dims]


def is_falling(numbers: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether no number is larger than the one before it."""
    return bool((numbers[1:] <= numbers[:-1]).all())


def blocks(rows: Stored, dims: Ints, widths: Sequence[int]) -> Blocks:
    """Cut columns into blocks, and leave out of each later one the rows that have nothing in it.

    Args:
        rows: `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
        widths: columns of each block, at least one each, together D.

    Raises:
        ValueError: widths that do not cut D columns.
    """
    numbers = rows.numbers
    V, D = numbers.shape
    if sum(widths) != D or min(widths) < 1:
        raise ValueError(f"widths of blocks must be positive and add up to {D}, got {list(widths)}")
    if len(widths) == 1:
        return Blocks((np.ascontiguousarray(numbers),), scales=rows.scales)
    reached, ends = later_blocks(dims, widths), np.cumsum(widths)
    rows_of = [int(np.count_nonzero(reached >= g)) for g in range(len(widths))]
    later = [scratch((count + 1, width), numbers.dtype) for count, width in zip(rows_of[1:], widths[1:], strict=True)]
    falling = is_falling(reached)
    inside = not falling and bool(numbers.dtype == np.float32) and rows_of[1] <= _FLOAT_INTEGERS
    first = scratch((V, widths[0] + inside), numbers.dtype)
    positions = None if falling or inside else scratch((V,), np.int32)
    for start, place in _places(reached, rows_of):
        part = slice(start, start + len(place))
        first[part, : widths[0]] = numbers[part, : widths[0]]
        for g, block in enumerate(later, start=1):
            own = np.flatnonzero(reached[part] >= g)
            block[place[own]] = numbers[start + own, ends[g - 1] : ends[g]]
        if inside:
            first[part, -1] = place
        if positions is not None:
            positions[part] = place
    return Blocks((first, *later), positions, inside, scales=rows.scales)


def _places(reached: npt.NDArray[np.int16], rows_of: Sequence[int]) -> Iterator[tuple[int, Ints]]:
    """Chunk by chunk: its first row, and the place of each row in the later blocks, int64 `[n]`.

    Rows that reach further come first, equal ones in the order of the table; rows that reach no later block have the
    place of its zeros.

    Args:
        reached: of each row.
        rows_of: rows of each block, the first one's too.
    """
    free = [*rows_of[1:], 0]  # the next place of a row that reaches block g and no further
    for start in range(0, len(reached), _CHUNK):
        part = reached[start : start + _CHUNK]
        place = np.full(len(part), rows_of[1])
        for g in range(1, len(rows_of)):
            own = np.flatnonzero(part == g)
            place[own] = free[g] + np.arange(len(own))
            free[g] += len(own)
        yield start, place


def block_bits(D: int) -> int:
    """Of the ragged layout: blocks of so many rows, as a power of two, that an uint16 tells where each begins.

    Args:
        D: what a full row takes in `values`: bytes of int4, numbers otherwise.

    Raises:
        ValueError: a single row is longer than that.
    """
    if not 1 <= D <= np.iinfo(np.uint16).max:
        raise ValueError(f"ragged rows have 1..{np.iinfo(np.uint16).max} dims, got {D}")
    return (np.iinfo(np.uint16).max // D).bit_length() - 1


def ragged(rows: Stored, dims: Ints) -> Ragged:
    """Put the first `dims` numbers of every row back to back.

    Args:
        rows: `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
    """
    V, D = rows.numbers.shape
    width = -(-D // 2) if rows.paired else D
    bits = block_bits(width)
    begin = np.zeros(1, np.int64)  # of the rows of a chunk, and of the row behind them
    block_offsets = np.zeros((V >> bits) + 1, np.int64)
    places = scratch((V + 1, 1 if rows.scales is None else 2), np.uint16)
    values = scratch((max(int(_lengths(dims, rows.paired).sum()), 1),), np.uint8 if rows.paired else rows.numbers.dtype)
    for start in range(0, V, _CHUNK):
        part = slice(start, start + _CHUNK)
        numbers, lengths = rows.numbers[part], _lengths(dims[part], rows.paired)
        if rows.paired:
            even = np.pad(numbers, ((0, 0), (0, D % 2)))
            numbers = pairs(even[:, ::2], even[:, 1::2])
        begin = begin[-1] + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        values[begin[0] : begin[-1]] = numbers[np.arange(width) < lengths[:, None]]
        of_blocks = begin[:: 1 << bits]  # a chunk is of whole blocks
        block_offsets[start >> bits :][: len(of_blocks)] = of_blocks[: len(block_offsets) - (start >> bits)]
        places[start : start + len(begin), 0] = begin - np.repeat(of_blocks, 1 << bits)[: len(begin)]
    if rows.scales is not None:
        places[:-1, 1] = rows.scales.quantized
    return Ragged(values, block_offsets, places, bits, D, 0.0 if rows.scales is None else rows.scales.unit)


def _lengths(dims: Ints, paired: bool) -> Ints:
    """Numbers of rows in `values`, or bytes of int4."""
    return (dims + 1) // 2 if paired else dims
