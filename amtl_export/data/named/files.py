"""What the named sources share: finding a published file, and joining side tables in row order."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from amtl_export.data.schema import FileFormat, Schema
from amtl_export.data.source import Source, scan_text, stream
from amtl_export.errors import InputError


def find(folder: Path, *names: str) -> Path:
    """The first of `names` that the folder has.

    Raises:
        InputError: none is there.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        "a published file is missing",
        where=folder,
        allowed=" or ".join(names),
        fix="check path, the folder with the files as published",
    )


def table(
    file: Path, separator: str, columns: tuple[str, ...], encoding: Any = "utf8", header: bool = False
) -> pl.LazyFrame:
    """A published text table without quoting."""
    files = FileFormat(header=header, columns=columns, quote="", encoding=encoding)
    return scan_text(file, separator, files)


def side_rows(file: Path, separator: str, columns: tuple[str, ...], encoding: Any = "utf8") -> pl.DataFrame:
    """All rows of a published text table, in memory.

    Raises:
        InputError: it cannot be parsed.
    """
    return pl.concat(list(stream(table(file, separator, columns, encoding), file))).select(columns)


def side_table(file: Path, separator: str, columns: tuple[str, ...], encoding: Any = "utf8") -> pl.LazyFrame:
    """A table to join: its columns only, keyed by the first, which must be unique.

    Raises:
        InputError: it cannot be parsed, or a key occurs twice.
    """
    frame = side_rows(file, separator, columns, encoding)
    if frame[columns[0]].n_unique() != len(frame):
        twice = frame.filter(frame[columns[0]].is_duplicated())[columns[0]][0]
        raise InputError("a key occurs twice", where=f"{file}, column {columns[0]!r}", found=twice)
    return frame.lazy()


def joined(name: str, folder: Path, file: Path, frame: pl.LazyFrame, schema: Schema) -> Source:
    """A source over one lazy frame in the order of its main file."""

    def chunks(frame: pl.LazyFrame, file: Path) -> Iterator[pl.DataFrame]:
        yield from stream(frame, file)

    return Source(name, schema, functools.partial(chunks, frame, file), folder)
