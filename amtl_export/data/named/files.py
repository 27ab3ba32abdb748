"""What the named sources share: finding a published file, and joining side tables in row order."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import polars as pl

from amtl_export.data.file_format import FileFormat
from amtl_export.data.frames import Reading
from amtl_export.data.schema import Schema
from amtl_export.data.source import Source, stream
from amtl_export.data.text_files import read_text
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
) -> Reading:
    """A published text table without quoting."""
    files = FileFormat(header=header, columns=columns, quote="", encoding=encoding)
    return read_text(file, separator, files)


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


def joined(name: str, folder: Path, file: Path, reading: Reading, schema: Schema) -> Source:
    """A source over one lazy frame in the order of its main file."""
    return Source(name, schema, functools.partial(stream, reading, file), folder)
