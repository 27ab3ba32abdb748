"""A value that cannot be used, with the row where it stands."""

from __future__ import annotations

import polars as pl

from amtl_export.data.frames import FILE, ROW
from amtl_export.errors import InputError

#: What helps where a row needs a value, and where it may be missing.
OR_FILTER = "correct the row, or leave it out by filter = … in schema.toml"
OR_MISSING = "correct or drop the row, or name the text under missing = [...] in schema.toml"


def refuse_first(
    raw: pl.DataFrame, bad: pl.Series, column: str, asker: str, allowed: str, fix: str = OR_FILTER
) -> None:
    """Raise on the first row where `bad` is true, naming file, row, column and value.

    Raises:
        InputError: some row is bad.
    """
    first = bad.arg_max() if bad.any() else None
    if first is None:
        return
    found = shown(raw[column][first : first + 1]) if column in raw.columns else repr(None)
    raise InputError(
        f"{asker}: a value cannot be used",
        where=f"{raw[FILE][first]}, row {raw[ROW][first] + 1}, column {column!r}",
        found=found,
        allowed=allowed,
        fix=fix,
    )


def shown(one: pl.Series) -> str:
    """The value of a column of one row; a time of a year that Python has not, as the number that is stored."""
    times = one.explode() if isinstance(one.dtype, pl.List) else one
    if isinstance(times.dtype, pl.Date | pl.Datetime):
        years = times.drop_nulls().dt.year()
        if not years.is_between(1, 9999).fill_null(False).all():
            return f"{one.to_physical().to_list()[0]} ({one.dtype} as it is stored, of no year from 1 to 9999)"
    return repr(one.to_list()[0])


def refuse_type(column: pl.Series, asker: str) -> None:
    """Refuse a column whose rows are no single values: lists, bytes, spans of time.

    Raises:
        InputError: it is one.
    """
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Duration, pl.Object):
        raise InputError(
            f"{asker}: a column of such a type cannot be used",
            where=f"column {column.name!r}",
            found=column.dtype,
            allowed="texts, numbers, truth values, dates and times",
            fix="another column in schema.toml, or store it as text",
        )
