"""Layouts of a table of constants. Each is a value: the arrays that the graph holds, and how to read them back.

A layout is a class here and a function in `arrange.py`, from stored rows and their dims; `graph/emit_standard.py` and
`graph/emit_ragged.py` have the matching nodes. Quantized scales lie beside the table, uint16 `[V]`; in the
ragged layout beside each row's offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from amtl_export.tables.values import Floats, Numbers, Scales, dequantize, unpaired

Ints = npt.NDArray[np.int64]


class LaidOut(Protocol):
    """A table as it is stored."""

    @property
    def layout(self) -> str:
        """The layout's name."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def scales(self) -> Scales | None:
        """What rows are multiplied by, or None."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Name → array, as written to the file."""

    def read(self, rows: Ints) -> Floats:
        """float32 `[n, D]`: what the graph answers for table rows `[n]`. The reference for its nodes."""


@dataclass(frozen=True)
class Dense:
    """Rows as they are: `[V, D]` in their value type."""

    rows: Numbers
    scales: Scales | None = None
    layout: str = "dense"

    @property
    def dim(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`rows`, and `quantized_scales` if there are any."""
        return {"rows": self.rows} | _scale_array(self.scales)

    def read(self, rows: Ints) -> Floats:
        """Rows."""
        return dequantize(self.rows[rows], self.scales, rows)


@dataclass(frozen=True)
class PairedDense:
    """Rows of int4 as they are, two numbers a byte: number i with number ceil(D/2) + i.

    A graph then has both halves of a row by one Gather, and puts them side by side whole.

    Attributes:
        rows: uint8 `[V, ceil(D/2)]`, pairs; the last one of an odd D has a zero.
        dim: D.
        scales: of the rows.
    """

    rows: npt.NDArray[np.uint8]
    dim: int
    scales: Scales
    layout: str = "dense"

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`rows` and `quantized_scales`."""
        return {"rows": self.rows} | _scale_array(self.scales)

    def read(self, rows: Ints) -> Floats:
        """Rows, put together from their halves."""
        numbers = np.concatenate(unpaired(self.rows[rows]), axis=1)
        return dequantize(numbers[:, : self.dim], self.scales, rows)


@dataclass(frozen=True)
class Paged:
    """Rows cut into pages of c floats; the zeros past dims are page 0, stored once.

    Attributes:
        pages: `[N, c]` in the value type, page 0 all zero.
        page_table: int32 `[V, ceil(D/c)]`, the page of each part of each row.
        dim: D; when c does not divide it, the last page's surplus is cut off after the lookup.
    """

    pages: Numbers
    page_table: npt.NDArray[np.int32]
    dim: int
    scales: Scales | None = None
    layout: str = "paged"

    @property
    def width(self) -> int:
        """c."""
        return int(self.pages.shape[1])

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`pages`, `page_table`, and `quantized_scales` if there are any."""
        return {"pages": self.pages, "page_table": self.page_table} | _scale_array(self.scales)

    def read(self, rows: Ints) -> Floats:
        """Rows, put together from their pages."""
        padded = self.pages[self.page_table[rows]].reshape(len(rows), self.page_table.shape[1] * self.width)
        return dequantize(padded[:, : self.dim], self.scales, rows)


@dataclass(frozen=True)
class Blocks:
    """Columns cut into blocks; every block but the first holds only the rows that have dims in it.

    Row r is `tables[0][r]`, then `tables[g][min(p, n_g)]` of each later block g. p is the row's position: rows that
    reach more blocks come first, equal ones in their own order. n_g is the block's last row, of zeros.

    Attributes:
        tables: in the value type. The first is `[V, w_0]`, in the order of the table, or `[V, w_0 + 1]` with the
            positions in its last column; each later one is `[n_g + 1, w_g]`, in the order of the positions.
        positions: int32 `[V]`, at most n_1. None where the first block holds them, or where r is r's position.
        positions_inside: whether the first block holds the positions, where they cost no cache miss of their own.
            Floats do, up to 2^24.
        scales: what rows are multiplied by, or None.
    """

    tables: tuple[Numbers, ...]
    positions: npt.NDArray[np.int32] | None = None
    positions_inside: bool = False
    scales: Scales | None = None
    layout: str = "blocks"

    @property
    def first_width(self) -> int:
        """w_0."""
        return int(self.tables[0].shape[1]) - self.positions_inside

    @property
    def dim(self) -> int:
        """D."""
        return self.first_width + sum(int(table.shape[1]) for table in self.tables[1:])

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`block_0` and so on, `positions` and `quantized_scales` if there are any."""
        tables: dict[str, npt.NDArray[Any]] = {block_name(g): table for g, table in enumerate(self.tables)}
        positions = {} if self.positions is None else {"positions": self.positions}
        return tables | positions | _scale_array(self.scales)

    def read(self, rows: Ints) -> Floats:
        """Rows, put together from their blocks."""
        first = self.tables[0][rows]
        positions = rows if self.positions is None else self.positions[rows]
        if self.positions_inside:
            positions = first[:, -1].astype(np.int32)
        later = [table[np.minimum(positions, len(table) - 1)] for table in self.tables[1:]]
        return dequantize(np.concatenate([first[:, : self.first_width], *later], axis=1), self.scales, rows)


@dataclass(frozen=True)
class Ragged:
    """Values back to back; the zeros past dims are not stored.

    Row r is `values[begin(r) : begin(r + 1)]` with `begin(r) = block_offsets[r >> block_bits] + row_offsets[r, 0]`:
    where a block of rows begins is said once for all of them, so that two bytes a row say the rest, in tables of any
    size. The quantized scale of a row is beside it.

    Of int4, `values` has two neighbours a byte, and offsets count bytes: each row begins on one. A row of odd dims ends
    with a zero.

    Attributes:
        values: `[sum of dims]` in the value type, at least one number; uint8 pairs of int4.
        block_offsets: int64 `[(V >> block_bits) + 1]`.
        row_offsets: uint16, int32 or int64 `[V + 1, 1]`, or `[V + 1, 2]` with quantized scales.
        block_bits: rows of a block are `2 ** block_bits`.
        dim: D.
        scale_unit: what quantized scales are multiples of, 0 without.
    """

    values: Numbers
    block_offsets: Ints
    row_offsets: npt.NDArray[Any]
    block_bits: int
    dim: int
    scale_unit: float = 0.0
    layout: str = "ragged"

    @property
    def paired(self) -> bool:
        """Whether values are two numbers a byte."""
        return bool(self.values.dtype == np.uint8)

    @property
    def scales(self) -> Scales | None:
        """What rows are multiplied by, or None."""
        return Scales(self.row_offsets[:-1, 1], self.scale_unit) if self.row_offsets.shape[1] == 2 else None

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`values`, `block_offsets`, `row_offsets`."""
        return {"values": self.values, "block_offsets": self.block_offsets, "row_offsets": self.row_offsets}

    def begin(self, rows: Ints) -> Ints:
        """Where rows begin in `values`."""
        begin: Ints = self.block_offsets[rows >> self.block_bits] + self.row_offsets[rows, 0].astype(np.int64)
        return begin

    def read(self, rows: Ints) -> Floats:
        """Rows, padded."""
        begin, end = self.begin(rows), self.begin(rows + 1)
        lane, per = np.arange(self.dim), 2 if self.paired else 1
        kept = lane < per * (end - begin)[:, None]
        values = self.values[np.where(kept, begin[:, None] + lane // per, 0)]
        if self.paired:
            first, second = unpaired(values)
            values = np.where(lane % 2, second, first)
        return np.where(kept, dequantize(values, self.scales, rows), np.float32(0))


def _scale_array(scales: Scales | None) -> dict[str, npt.NDArray[Any]]:
    return (
        {}
        if scales is None
        else {"quantized_scales": scales.quantized, "scale_unit": np.array(scales.unit, np.float32)}
    )


def block_name(number: int) -> str:
    """Name of a block's array."""
    return f"block_{number}"


def stored_bytes(table: LaidOut) -> int:
    """Bytes that a table takes in the file."""
    return sum(int(array.nbytes) for array in table.arrays.values())
