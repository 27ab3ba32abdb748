"""Layouts of a table of constants. Each is a value: the arrays that the graph holds, and how to read them back.

A layout is one function from rows and dims to a `LaidOut`; `graph/lower.py` has the matching nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

#: Names of the arrays of a `Blocks`.
BLOCK_NAME = re.compile(r"block_\d+")

Floats = npt.NDArray[np.float32]
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
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Name → array, as written to the file."""

    def read(self, rows: Ints) -> Floats:
        """float32 `[n, D]`: what the graph answers for table rows `[n]`. The reference for its nodes."""


@dataclass(frozen=True)
class Dense:
    """Rows as they are: float32 `[V, D]`."""

    rows: Floats
    layout: str = "dense"

    @property
    def dim(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`rows`."""
        return {"rows": self.rows}

    def read(self, rows: Ints) -> Floats:
        """Rows."""
        return self.rows[rows]


@dataclass(frozen=True)
class Paged:
    """Rows cut into pages of c floats; the zeros past dims are page 0, stored once.

    Attributes:
        pages: float32 `[N, c]`, page 0 all zero.
        page_table: int32 `[V, ceil(D/c)]`, the page of each part of each row.
        dim: D; when c does not divide it, the last page's surplus is cut off after the lookup.
    """

    pages: Floats
    page_table: npt.NDArray[np.int32]
    dim: int
    layout: str = "paged"

    @property
    def width(self) -> int:
        """c."""
        return int(self.pages.shape[1])

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`pages`, `page_table`."""
        return {"pages": self.pages, "page_table": self.page_table}

    def read(self, rows: Ints) -> Floats:
        """Rows, put together from their pages."""
        joined = self.pages[self.page_table[rows]].reshape(len(rows), self.page_table.shape[1] * self.width)
        return joined[:, : self.dim]


@dataclass(frozen=True)
class Blocks:
    """Neighbouring rows of equal dims as tables of that width; no number is stored for a row.

    Attributes:
        starts: int64 `[R]`, first table row of each run of equal dims.
        tables: float32 `[n + 2, d]` of each run; the first and the last row are zero, for rows of other runs.
        dim: D.
    """

    starts: Ints
    tables: tuple[Floats, ...]
    dim: int
    layout: str = "blocks"

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`block_<start>` of each run."""
        return {block_name(start): table for start, table in zip(self.starts, self.tables, strict=True)}

    def read(self, rows: Ints) -> Floats:
        """Rows: the sum over the runs of what each has for them."""
        total = np.zeros((len(rows), self.dim), dtype=np.float32)
        for start, table in zip(self.starts, self.tables, strict=True):
            total[:, : table.shape[1]] += table[np.clip(rows - (start - 1), 0, len(table) - 1)]
        return total


@dataclass(frozen=True)
class Ragged:
    """Values back to back; the zeros past dims are not stored.

    Attributes:
        values: float32 `[sum of dims]`, at least one number.
        offsets: int32 or int64 `[V + 1]`: row r is `values[offsets[r] : offsets[r + 1]]`.
        dim: D.
    """

    values: Floats
    offsets: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    dim: int
    layout: str = "ragged"

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`values`, `offsets`."""
        return {"values": self.values, "offsets": self.offsets}

    def read(self, rows: Ints) -> Floats:
        """Rows, padded."""
        begin, end = self.offsets[:-1][rows], self.offsets[1:][rows]
        lane = np.arange(self.dim)
        kept = lane < (end - begin)[:, None]
        found = self.values[np.where(kept, begin[:, None] + lane, 0)]
        return np.where(kept, found, np.float32(0))


def block_name(start: int | np.int64) -> str:
    """Name of the array of the run that begins at a table row."""
    return f"block_{start}"


def dense(rows: Floats) -> Dense:
    """The baseline layout."""
    return Dense(np.ascontiguousarray(rows, dtype=np.float32))


def paged(rows: Floats, dims: Ints, width: int) -> Paged:
    """Cut rows into pages.

    Args:
        rows: float32 `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
        width: c, 1..D.

    Raises:
        ValueError: width or dims out of range, or more pages than int32 can number.
    """
    V, D = rows.shape
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
    pages = np.zeros((count, width), dtype=np.float32)
    for start in range(0, V, 1 << 18):  # bounds the padded copy
        part = slice(start, start + (1 << 18))
        padded = np.zeros((len(rows[part]), parts * width), dtype=np.float32)
        padded[:, :D] = rows[part]
        pages[page_table[part][kept[part]]] = padded.reshape(-1, parts, width)[kept[part]]
    return Paged(pages, page_table, D)


def equal_runs(dims: Ints) -> Ints:
    """int64 `[R + 1]`: where each run of equal dims begins, and V at the end."""
    starts = np.flatnonzero(np.diff(dims, prepend=-1))
    return np.append(starts, len(dims)).astype(np.int64)


def blocks(rows: Floats, dims: Ints) -> Blocks:
    """Cut a table into its runs of equal dims; runs of 0 dims take nothing.

    Args:
        rows: float32 `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
    """
    bounds = equal_runs(dims)
    runs = [(a, b, int(dims[a])) for a, b in pairwise(bounds) if dims[a]]
    runs = runs or [(0, len(rows), 1)]
    tables = tuple(np.pad(rows[a:b, :width], ((1, 1), (0, 0))).astype(np.float32, copy=False) for a, b, width in runs)
    return Blocks(np.array([a for a, _, _ in runs], dtype=np.int64), tables, rows.shape[1])


def ragged(rows: Floats, dims: Ints) -> Ragged:
    """Put the first `dims` numbers of every row back to back.

    Args:
        rows: float32 `[V, D]`, zero past dims.
        dims: int64 `[V]`, 0..D.
    """
    total = int(dims.sum())
    offsets: npt.NDArray[np.int32] | npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(dims, dtype=np.int64)])
    if total <= np.iinfo(np.int32).max:
        offsets = offsets.astype(np.int32)
    values = np.zeros(max(total, 1), dtype=np.float32)
    for start in range(0, len(dims), 1 << 18):  # bounds the mask
        part = slice(start, start + (1 << 18))
        kept = np.arange(rows.shape[1]) < dims[part][:, None]
        values[offsets[start] : offsets[start] + int(dims[part].sum())] = rows[part][kept]
    return Ragged(values, offsets, rows.shape[1])


def stored_bytes(table: LaidOut) -> int:
    """Bytes that a table takes in the file."""
    return sum(int(array.nbytes) for array in table.arrays.values())
