"""Side files: each row of the data gets the columns of the row there that has its key; the table is held in memory.

Keys compare as texts, trimmed as values of fields are: a whole number as its decimal text, a float that is one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from amtl_export.data.file_format import JoinSchema
from amtl_export.data.folder import format_of
from amtl_export.data.frames import ROW, Reading
from amtl_export.data.normalise import Normalisation, normalised
from amtl_export.data.parquet_files import column_types, read_parquet
from amtl_export.data.refusal import OR_MISSING, refuse_first
from amtl_export.data.schema import Schema
from amtl_export.data.stream import present_columns, refuse_empty, stream
from amtl_export.data.text_files import SEPARATORS, read_text
from amtl_export.data.value_index import ValueIndex
from amtl_export.errors import InputError

_KEY = "__key"


@dataclass(frozen=True)
class _Side:
    """A side file in memory.

    Attributes:
        join: what the schema says of it.
        given: the columns that it gives.
        keys: of its rows, as texts.
        rows: those columns.
    """

    join: JoinSchema
    given: frozenset[str]
    keys: ValueIndex
    rows: pl.DataFrame


class Joins:
    """The side files of a schema, read.

    Attributes:
        own: the columns that the data must have itself, keys included.

    Args:
        folder: that their paths are relative to.
        schema: says what is joined, and what is needed.

    Raises:
        InputError: a file cannot be read, lacks a column, has a key twice or a row without one; two give a column.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._missing = schema.files.missing
        needed = schema.columns() | {join.key for join in schema.joins}
        self._sides: list[_Side] = []
        for join in schema.joins:
            side = self._read(folder, join, needed)
            for earlier in self._sides:
                if both := earlier.given & side.given:
                    raise _twice(f"{earlier.join.file} gives it too", both, folder / join.file, join)
            self._sides.append(side)
        self.own = needed - self.given
        self._check_order()

    @property
    def given(self) -> set[str]:
        """The columns that are joined."""
        return {name for side in self._sides for name in side.given}

    def refuse_twice(self, present: set[str], file: Path) -> None:
        """Refuse a data file that has a column which is joined too.

        Raises:
            InputError: it has one.
        """
        for side in self._sides:
            if both := side.given & present:
                raise _twice(f"in the data and in {side.join.file}", both, file, side.join)

    def joined(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Rows in their order, with the columns of every side file and `unmatched_column` of each.

        Raises:
            InputError: a key is no text and no whole number.
        """
        for number, side in enumerate(self._sides):
            key = self._texts(chunk, side.join.key, f"key of {side.join.file}")
            at = pl.Series(side.keys.positions(key))
            unmatched = (at < 0).alias(unmatched_column(number))
            rows = at.set(at < 0, None)
            chunk = chunk.with_columns(unmatched, *(column.gather(rows) for column in side.rows))
        return chunk

    def _read(self, folder: Path, join: JoinSchema, needed: set[str]) -> _Side:
        file = folder / join.file
        refuse_empty(file)
        reading, present = _opened(file, join)
        listed = join.columns or [name for name in present if not name.startswith("__")]
        _check_columns(file, join, present, {join.own_key, *listed})
        offered = {join.prefix + name: name for name in listed if name != join.own_key}
        taken = {name: column for name, column in offered.items() if name in needed}
        wanted = {join.own_key, *taken.values()}
        if twice := sorted(name for name in wanted if f"{name}_duplicated_0" in present):
            raise InputError("the header names a column twice", where=file, found=twice, fix="rename one of the two")
        if reading is None:
            reading = read_parquet(file, wanted, column_types([file], wanted))
        marks = [name for name in present if name.startswith("__") and name not in wanted]
        frame = reading.frame.select(*dict.fromkeys([ROW, *marks]), *sorted(wanted))
        chunks = list(stream(reading._replace(frame=frame), file, join.file))
        if not sum(map(len, chunks)):
            raise InputError("the side file has no rows", where=file, fix="fill it, or drop its [[join]]")
        rows = pl.concat(chunks)
        rows = rows.with_columns(self._texts(rows, join.own_key, "key of the side file"))
        _check_keys(rows, file, join.own_key)
        columns = [pl.col(column).alias(name) for name, column in taken.items()]
        return _Side(join, frozenset(taken), ValueIndex(rows[_KEY]), rows.select(columns))

    def _texts(self, frame: pl.DataFrame, column: str, asker: str) -> pl.Series:
        """A column as keys."""
        values = frame[column]

        def refuse(bad: pl.Series, allowed: str) -> None:
            refuse_first(frame, bad.fill_null(False), column, asker, allowed, OR_MISSING)

        kind = "int64" if values.dtype.is_float() or values.dtype.is_decimal() else "string"
        spec = Normalisation(field=column, column=column, type=kind, missing=self._missing)
        return normalised(values, spec, refuse).cast(pl.String).alias(_KEY)

    def _check_order(self) -> None:
        known = set(self.own)
        for side in self._sides:
            if side.join.key not in known:
                raise InputError(
                    "the key of a join comes from a later one",
                    where=f"[[join]] of {side.join.file}",
                    found=side.join.key,
                    fix="change the order of the [[join]]s in schema.toml",
                )
            known |= side.given


def unmatched_column(number: int) -> str:
    """The column of a chunk that is true where a row's key is missing or not in the side file of this number."""
    return f"__unmatched_{number}"


def unmatched_notes(schema: Schema, unmatched: Sequence[int], rows: int) -> list[str]:
    """What should be said of keys that are not there."""
    return [
        f"{count:,} of {rows:,} rows have no {join.key} that is in {join.file}; what is joined from it is missing there"
        for join, count in zip(schema.joins, unmatched, strict=True)
        if count
    ]


def _opened(file: Path, join: JoinSchema) -> tuple[Reading | None, list[str]]:
    """How a text file is read (Parquet: when it is known which columns are), and the names of a file's columns."""
    kind = format_of(file, join.written)
    if kind == "parquet":
        reading = read_parquet(file, set(), {})
        return None, present_columns(reading, file)
    if kind not in SEPARATORS:
        raise InputError("a side file is a table", where=file, found=kind, allowed="csv, tsv or parquet")
    reading = read_text(file, join.separator or SEPARATORS[kind], join.written)
    return reading, present_columns(reading, file)


def _check_columns(file: Path, join: JoinSchema, present: Sequence[str], wanted: set[str]) -> None:
    if lacking := sorted(wanted - set(present)):
        raise InputError(
            "the side file lacks columns",
            where=file,
            found=f"columns {sorted(name for name in present if not name.startswith('__'))}",
            allowed=f"also {lacking}",
            fix=f"correct key, file_key and columns of the [[join]] of {join.file}, or its header and separator",
        )


def _check_keys(rows: pl.DataFrame, file: Path, column: str) -> None:
    none = rows.filter(pl.col(_KEY).is_null())
    if len(none):
        raise InputError(
            "a row of the side file has no key",
            where=f"{file}, row {none[ROW][0] + 1}, column {column!r}",
            found=repr(none[column][0]),
            fix="fill the key, or drop the row",
        )
    first = rows[_KEY].is_duplicated().arg_max() or 0
    same = rows.filter(pl.col(_KEY) == rows[_KEY][first])
    if len(same) > 1:
        raise InputError(
            "a key is twice in the side file",
            where=f"{file}, rows {same[ROW][0] + 1} and {same[ROW][1] + 1}, column {column!r}",
            found=repr(same[_KEY][0]),
            allowed="one row a key",
            fix="drop one of the two rows",
        )


def _twice(what: str, names: set[str] | frozenset[str], where: Path, join: JoinSchema) -> InputError:
    return InputError(
        f"a column is there twice: {what}",
        where=where,
        found=sorted(names),
        fix=f'prefix = "…" in the [[join]] of {join.file}, and name its columns so; or columns = […] without it',
    )
