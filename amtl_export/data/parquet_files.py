"""Parquet files as lazy frames, and whether all files of a folder have the same types."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import polars as pl

from amtl_export.data.frames import ROW, Reading, polars_errors
from amtl_export.errors import InputError, os_errors


def read_parquet(file: Path, columns: set[str], types: dict[str, pl.DataType]) -> Reading:
    """Read one file: arrays as lists, dictionaries as texts, other types as they are.

    Args:
        file: to read.
        columns: that are asked for.
        types: of the columns, by all files of the folder.
    """
    with polars_errors(file), os_errors("reading data", file):
        frame = pl.scan_parquet(file.absolute(), glob=False, hive_partitioning=False)
        stored = frame.collect_schema()
    casts = [
        pl.col(name).cast(types.get(name, _plain(stored[name])))
        for name in sorted(columns & set(stored.names()))
        if stored[name] != types.get(name, _plain(stored[name]))
    ]
    times = [name for name in sorted(columns & set(stored.names())) if _holds_times(stored[name])]
    return Reading(frame.with_columns(casts).with_row_index(ROW), functools.partial(TimesCheck, file, times))


def _holds_times(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.Array | pl.List) else dtype
    return isinstance(inner, pl.Date | pl.Datetime)


class TimesCheck:
    """Refuses dates and times past any calendar: whatever takes one as a text ends in a panic of Polars.

    Args:
        file: for the messages.
        columns: of dates or times, or of lists of them.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self._file, self._columns = file, columns

    def chunk(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows as they are.

        Raises:
            InputError: a time is of no year.
        """
        for column in self._columns:
            if column in chunk.columns:
                self._refuse(chunk, column)
        return chunk

    def _refuse(self, chunk: pl.DataFrame, column: str) -> None:
        times = chunk.select(ROW, column)
        if isinstance(times.schema[column], pl.List):
            times = times.explode(column)
        bad = times.filter(pl.col(column).is_not_null() & pl.col(column).dt.year().is_null()).head(1)
        if len(bad):
            raise InputError(
                f"column {column!r}: a time is past any calendar",
                where=f"{self._file}, row {bad[ROW][0] + 1}",
                found=f"{bad[column].to_physical()[0]} as {bad.schema[column]}",
                allowed="years -262143 to 262142",
                fix="correct or drop the row; is the number in another unit than the column's type says?",
            )

    def finish(self, parsed: bool = True) -> None:
        """Nothing is left."""


def column_types(files: Iterable[Path], columns: set[str], carried: Collection[str] = ()) -> dict[str, pl.DataType]:
    """Column → its type in all of the files; a column of nothing but nulls, or lists of none, has that
    of the others.

    Args:
        files: that are read.
        columns: that are asked for.
        carried: of these, those that no field reads: they may be of any type.

    Raises:
        InputError: a file cannot be parsed, a type cannot be used, or two files differ.
    """
    found: dict[str, tuple[pl.DataType, pl.DataType, Path]] = {}
    for file in files:
        if not file.is_file():  # reading a pipe may never end
            raise InputError("no such file", where=file)
        with polars_errors(file), os_errors("reading data", file):
            stored = pl.read_parquet_schema(file.absolute())
        for name in sorted(columns & set(stored)):
            own = _plain(stored[name])
            if name not in carried:
                _refuse_unusable(stored[name], name, file)
            known, as_stored, first = found.setdefault(name, (own, stored[name], file))
            both = _of_both(known, own)
            if both is not None:
                found[name] = (both, as_stored, first) if both == known else (both, stored[name], file)
            else:
                raise InputError(
                    f"two files have column {name!r} with different types",
                    where=file,
                    found=stored[name],
                    allowed=f"{as_stored}, as in {first.name}",
                    fix="write all files with one type",
                )
    return {name: kept for name, (kept, _, _) in found.items()}


def _of_both(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """The type of two files' columns, where nothing but nulls, or lists of none, fits any; None if they differ."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        inner = _of_both(one.inner, other.inner)  # type: ignore[arg-type]  # instances, of schemas that were read
        return None if inner is None else pl.List(inner)
    return None


def _plain(dtype: pl.DataType) -> pl.DataType:
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.Array | pl.List):
        return pl.List(_plain(dtype.inner))  # type: ignore[arg-type]  # an instance, of a schema that was read
    return dtype


def _refuse_unusable(dtype: pl.DataType, name: str, file: Path) -> None:
    inner = dtype.inner if isinstance(dtype, pl.Array | pl.List) else dtype
    if inner == pl.Binary or hasattr(inner, "ext_storage"):  # the second: Arrow's extension types, JSON say
        fix = "store it as text: cast the column to string before it is written"
    elif isinstance(inner, pl.Struct | pl.Array | pl.List) or inner == pl.Object:
        fix = "write its parts as columns of their own"
    else:
        return
    raise InputError(
        f"column {name!r} has a type that no field can use",
        where=file,
        found=dtype,
        allowed="texts, numbers, truth values, dates and times, or lists of them",
        fix=fix,
    )
