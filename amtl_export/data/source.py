"""Where rows come from: files through a `schema.toml`, or a named source. Always chunk by chunk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from amtl_export.data.folder import DataFile, data_files
from amtl_export.data.frames import FILE, ROW, Reading, polars_errors
from amtl_export.data.joins import Joins
from amtl_export.data.pairs import read_libffm, read_libsvm
from amtl_export.data.parquet_files import column_types, read_parquet
from amtl_export.data.schema import Schema
from amtl_export.data.stream import CHUNK_ROWS, present_columns, refuse_empty, stream
from amtl_export.data.text_files import SEPARATORS, read_text
from amtl_export.errors import InputError

__all__ = ["CHUNK_ROWS", "FILE", "ROW", "Source", "folder_source", "stream"]


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


@dataclass(frozen=True)
class Files:
    """Files of one format, as a schema reads them.

    Attributes:
        files: in the order in which they are read.
        schema: the meaning of the columns.
        joins: side files, in memory.
        kept: columns that are read beside those of the schema.
    """

    files: tuple[DataFile, ...]
    schema: Schema
    joins: Joins
    kept: tuple[str, ...] = ()

    @classmethod
    def at(cls, place: Path, schema: Schema, kept: tuple[str, ...] = (), *, by_split: bool = True) -> Files:
        """The data files of a folder, or one file; the files that are joined are read at once.

        Args:
            place: the folder, or the file.
            schema: the meaning of the columns.
            kept: columns that are read beside those of the schema.
            by_split: see `data_files`.

        Raises:
            InputError: there are no data files, or a side file cannot be used.
        """
        files = tuple(data_files(place, schema, by_split=by_split))
        return cls(files, schema, Joins(place if place.is_dir() else place.parent, schema), kept)

    def chunks(self) -> Iterator[pl.DataFrame]:
        """All rows.

        Raises:
            InputError: a file cannot be read, or lacks a column.
        """
        for file in self.files:
            refuse_empty(file.path)
        needed = self.joins.own
        unseen = {name for name in needed if self.files[0].format == "libffm" and name.startswith("field_")}
        for file in self.files:
            for chunk in self.of(file):
                unseen -= {name for name in unseen if chunk[name].list.len().max()}
                yield chunk
        if unseen:
            raise InputError(
                "no line has a field that the schema names",
                where=self.files[0].path.parent,
                found=", ".join(sorted(unseen)),
                fix="correct the numbers of field_<n> in schema.toml",
            )

    def of(self, file: DataFile) -> Iterator[pl.DataFrame]:
        """The rows of one of the files.

        Raises:
            InputError: it cannot be read, or lacks a column.
        """
        for chunk in stream(self._reading(file), file.path, file.name):
            yield self.joins.joined(chunk)

    def check(self, file: DataFile) -> None:
        """Look at the columns of one of the files.

        Raises:
            InputError: it cannot be read, or lacks one.
        """
        self._reading(file)

    def none_of(self, file: DataFile) -> pl.DataFrame:
        """The columns of one of the files, without a row.

        Raises:
            InputError: it cannot be read, or lacks a column.
        """
        with polars_errors(file.path):
            chunk = self._reading(file).frame.head(0).collect()
        return self.joins.joined(chunk.with_columns(pl.lit(file.name).alias(FILE)))

    @property
    def _own(self) -> set[str]:
        """The columns that the files must have themselves."""
        return self.joins.own | (set(self.kept) - self.joins.given)

    def _reading(self, file: DataFile) -> Reading:
        refuse_empty(file.path)
        needed = self._own
        reading = _open(file, self.schema, needed, self.types)
        present = set(present_columns(reading, file.path))
        keys = [
            pl.lit(value, dtype=pl.String).alias(key)
            for key, value in file.keys.items()
            if key in needed and key not in present
        ]
        self.joins.refuse_twice(present | set(file.keys), file.path)
        _check_columns(present | set(file.keys), file.path, self.joins.own, needed)
        own = [name for name in present if name.startswith("__") and name not in needed]
        return reading._replace(frame=reading.frame.with_columns(keys).select(*own, *sorted(needed)))

    @functools.cached_property
    def types(self) -> dict[str, pl.DataType]:
        """Of the columns of Parquet files, which have them alike."""
        files = [file.path for file in self.files if file.format == "parquet"]
        return column_types(files, self._own, self._own - self.joins.own)


def folder_source(place: Path) -> Source:
    """A folder (or one file) of data files with its `schema.toml`; the files that it joins are read at once.

    Raises:
        InputError: the schema does not fit, there are no data files, or a side file cannot be used.
    """
    folder = place if place.is_dir() else place.parent
    schema = Schema.from_toml(folder / "schema.toml")
    return Source(str(place), schema, Files.at(place, schema).chunks, place)


def _open(file: DataFile, schema: Schema, needed: set[str], types: dict[str, pl.DataType]) -> Reading:
    if file.format == "parquet":
        return read_parquet(file.path, needed, types)
    if file.format == "libsvm":
        return read_libsvm(file.path)
    if file.format == "libffm":
        return read_libffm(file.path, needed)
    return read_text(file.path, schema.files.separator or SEPARATORS[file.format], schema.files)


def _check_columns(present: set[str], file: Path, of_schema: set[str], needed: set[str]) -> None:
    if lacking := sorted(of_schema - present) or sorted(needed - present):
        if any("\r" in name for name in present):
            raise InputError(
                "lines end in a carriage return alone",
                where=file,
                fix="write the file with line feeds: tr '\\r' '\\n' < old > new",
            )
        named = lacking[0] in of_schema
        raise InputError(
            f"the data lacks columns that {'the schema names' if named else 'are to be kept'}",
            where=file,
            found=f"columns {sorted(name for name in present if not name.startswith('__'))}",
            allowed=f"also {lacking}",
            fix="correct schema.toml, or [files] header, columns and separator"
            if named
            else "keep columns that every file has",
        )
    twice = sorted(name for name in needed if f"{name}_duplicated_0" in present)
    if twice:
        raise InputError("the header names a column twice", where=file, found=twice, fix="rename one of the two")
