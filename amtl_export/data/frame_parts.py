"""Parquet files of our own that are made and read some rows at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from amtl_export.data.vocabulary import read_parquet, unreadable, write_frame

#: Rows that are worked on at a time.
_ROWS = 1 << 20


@dataclass(frozen=True)
class FrameParts:
    """Rows of a file, made when they are asked for.

    Attributes:
        size: how many.
        part: the first row and the one behind the last → those rows.
    """

    size: int
    part: Callable[[int, int], pl.DataFrame]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> FrameParts:
        """Those of a frame that is there."""
        return cls(len(frame), lambda first, past: frame.slice(first, past - first))

    @property
    def schema(self) -> pl.Schema:
        """Column → its type."""
        return self.part(0, 0).schema

    def __iter__(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Its parts, each with the number of its first row."""
        for first in range(0, self.size, _ROWS):
            yield first, self.part(first, min(first + _ROWS, self.size))

    def write(self, path: Path) -> None:
        """Write Parquet."""
        if self.size <= _ROWS:
            write_frame(self.part(0, self.size), path)
            return

        def parts(*asked: Any) -> Iterator[pl.DataFrame]:  # noqa: ARG001 - all columns of all rows
            for _, part in self:
                yield part

        buffer = io.BytesIO()  # so that a full disk is an OSError that names the file
        register_io_source(parts, schema=self.schema).sink_parquet(buffer, compression="zstd")
        path.write_bytes(buffer.getbuffer())


class StoredFrame:
    """A Parquet file of our own, read some rows at a time.

    Raises:
        InputError: the file is missing, truncated or not Parquet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frame: pl.DataFrame | pl.LazyFrame
        with unreadable(path):
            lazy = pl.scan_parquet(path.absolute(), glob=False)
            self.schema = lazy.collect_schema()
            self.size = int(lazy.select(pl.len()).collect().item())
        self._frame = lazy if self.size > _ROWS else read_parquet(path)

    def rows(self, first: int, count: int) -> pl.DataFrame:
        """Some of its rows."""
        with unreadable(self._path):
            return self._frame.slice(first, count).lazy().collect()
