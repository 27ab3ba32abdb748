"""Where rows come from: files through a `schema.toml`, or a named source. Always chunk by chunk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from amtl_export.data.folder import DataFile, data_files
from amtl_export.data.frames import FILE, ROW, Check, Reading, polars_errors
from amtl_export.data.pairs import read_libffm, read_libsvm
from amtl_export.data.parquet_files import column_types, read_parquet
from amtl_export.data.schema import Schema
from amtl_export.data.text_files import read_text, unpacking
from amtl_export.errors import InputError, os_errors

__all__ = ["CHUNK_ROWS", "FILE", "ROW", "Source", "folder_source", "stream"]

#: Rows read at a time. Bounds memory whatever the size of the file.
CHUNK_ROWS = 262_144

_SEPARATORS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Source:
    """Rows and what they mean.

    Attributes:
        name: as given.
        schema: the meaning of the columns.
        chunks: opens a fresh pass over the rows; frames carry `__row` (from 0, within its file) and `__file`, the
            file's path within the folder.
        path: where the files are, None for `synthetic`.
    """

    name: str
    schema: Schema
    chunks: Callable[[], Iterator[pl.DataFrame]]
    path: Path | None = None


def folder_source(place: Path) -> Source:
    """A folder (or one file) of data files with its `schema.toml`."""
    folder = place if place.is_dir() else place.parent
    schema = Schema.from_toml(folder / "schema.toml")
    files = data_files(place, schema)
    return Source(str(place), schema, functools.partial(_read_files, files, schema), place)


def _read_files(files: list[DataFile], schema: Schema) -> Iterator[pl.DataFrame]:
    needed = schema.columns()
    for file in files:
        _refuse_empty(file.path)
    unseen = {name for name in needed if files[0].format == "libffm" and name.startswith("field_")}
    types = column_types([file.path for file in files if file.format == "parquet"], needed)
    for file in files:
        reading = _open(file, schema, types)
        with polars_errors(file.path), unpacking(file.path), _lines_first(reading.check()):
            present = set(reading.frame.collect_schema().names())
        keys = [
            pl.lit(value, dtype=pl.String).alias(key)
            for key, value in file.keys.items()
            if key in needed and key not in present
        ]
        _check_columns(present | set(file.keys), file.path, schema)
        own = [name for name in present if name.startswith("__") and name not in needed]
        frame = reading.frame.with_columns(keys).select(*own, *sorted(needed))
        for chunk in stream(reading._replace(frame=frame), file.path, file.name):
            unseen -= {name for name in unseen if chunk[name].list.len().max()}
            yield chunk
    if unseen:
        raise InputError(
            "no line has a field that the schema names",
            where=files[0].path.parent,
            found=", ".join(sorted(unseen)),
            fix="correct the numbers of field_<n> in schema.toml",
        )


def _refuse_empty(file: Path) -> None:
    if not file.is_file():
        raise InputError("no such file", where=file)
    if file.stat().st_size == 0:
        raise InputError("the file is empty", where=file)


def _open(file: DataFile, schema: Schema, types: dict[str, pl.DataType]) -> Reading:
    if file.format == "parquet":
        return read_parquet(file.path, schema.columns(), types)
    if file.format == "libsvm":
        return read_libsvm(file.path)
    if file.format == "libffm":
        return read_libffm(file.path, schema.columns())
    return read_text(file.path, schema.files.separator or _SEPARATORS[file.format], schema.files)


def _check_columns(present: set[str], file: Path, schema: Schema) -> None:
    needed = schema.columns()
    lacking = sorted(needed - present)
    if lacking:
        raise InputError(
            "the data lacks columns that the schema names",
            where=file,
            found=f"columns {sorted(name for name in present if not name.startswith('__'))}",
            allowed=f"also {lacking}",
            fix="correct schema.toml, or [files] header, columns and separator",
        )
    twice = sorted(name for name in needed if f"{name}_duplicated_0" in present)
    if twice:
        raise InputError("the header names a column twice", where=file, found=twice, fix="rename one of the two")


def stream(reading: Reading, file: Path, name: str | None = None) -> Iterator[pl.DataFrame]:
    """Chunks of a file in its order, checked, with `__file` filled in.

    Args:
        reading: of the file.
        file: for the messages.
        name: of the file within its folder; the last part of its path when not given.

    Raises:
        InputError: the file cannot be parsed; a line cannot be used.
    """
    check = reading.check()
    with polars_errors(file), os_errors("reading data", file), unpacking(file), _lines_first(check):
        for chunk in reading.frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            yield check.chunk(chunk).with_columns(pl.lit(name or file.name).alias(FILE))
        check.finish()


@contextmanager
def _lines_first(check: Check) -> Iterator[None]:
    """Where Polars cannot parse a file, the check may know which row it is."""
    try:
        yield
    except pl.exceptions.PolarsError:
        check.finish()
        raise
