"""Which split each row belongs to."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

from amtl_export.data.folder import split_of_file
from amtl_export.data.frames import FILE
from amtl_export.data.refusal import refuse_first, refuse_type
from amtl_export.data.schema import (
    SPLITS,
    ColumnSplit,
    FilesSplit,
    RandomSplit,
    Schema,
    TimeSplit,
    as_time,
)
from amtl_export.errors import InputError

SPLIT = "__split"

_ISO = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?$"
)


def split_of_rows(kept: pl.DataFrame, schema: Schema, rng: np.random.Generator) -> pl.Series:
    """`__split`, UInt8, an index into SPLITS for each row.

    Args:
        kept: rows with all columns of the schema and `__file`.
        schema: its `split` is the rule.
        rng: of the random split; drawn once for each row.

    Raises:
        InputError: a row's value says no split, or the column is of another kind than the rule.
    """
    rule = schema.split
    if isinstance(rule, RandomSplit):
        draw = rng.random(len(kept))
        index = (draw < rule.valid).astype(np.uint8) + 2 * ((draw >= rule.valid) & (draw < rule.valid + rule.test))
        return pl.Series(SPLIT, index.astype(np.uint8))
    if isinstance(rule, FilesSplit):
        files = {name: split_of_file(rule, name) for name in kept[FILE].unique()}
        return kept[FILE].replace_strict(files, return_dtype=pl.UInt8).alias(SPLIT)
    if isinstance(rule, ColumnSplit):
        return _by_column(kept, rule)
    column, starts = _times(kept, rule)
    late = (column >= starts[0]).cast(pl.UInt8) + (column >= starts[1]).cast(pl.UInt8)
    return late.cast(pl.UInt8).alias(SPLIT)


def _by_column(kept: pl.DataFrame, rule: ColumnSplit) -> pl.Series:
    column = kept[rule.column]
    refuse_type(column, "column split")
    if column.dtype.is_float():  # whole numbers that are stored as floats
        whole = column.cast(pl.Int64, strict=False)
        column = whole.cast(pl.String).zip_with((whole == column).fill_null(False), column.cast(pl.String))
    names = {getattr(rule, split): index for index, split in enumerate(SPLITS)}
    known = column.cast(pl.String).replace_strict(names, default=None, return_dtype=pl.UInt8)
    refuse_first(kept, known.is_null(), rule.column, "column split", f"one of {sorted(names)}")
    return known.alias(SPLIT)


def _times(kept: pl.DataFrame, rule: TimeSplit) -> tuple[pl.Series, tuple[object, object]]:
    """The column, and the starts of valid and test, as values that compare."""
    column, asker = kept[rule.column], "time split"
    refuse_first(kept, column.is_null(), rule.column, asker, "a time in every row")
    if isinstance(rule.valid_from, str):
        starts = as_time(rule.valid_from), as_time(str(rule.test_from))
        if starts[0] is not None and starts[1] is not None:
            return _instants(kept, rule, aware=starts[0].tzinfo is not None), (_utc(starts[0]), _utc(starts[1]))
        if column.dtype != pl.String:
            _refuse_column(rule, column, "dates or numbers, as the column has them")
        return column, (rule.valid_from, rule.test_from)
    if column.dtype == pl.String:
        texts = column.str.strip_chars()
        whole = texts.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return whole, (rule.valid_from, rule.test_from)
        number = texts.cast(pl.Float64, strict=False)
        refuse_first(kept, number.is_null() | number.is_nan(), rule.column, asker, "a number, as valid_from is")
        return number, (rule.valid_from, rule.test_from)
    if not column.dtype.is_numeric():
        _refuse_column(rule, column, "dates or date-times, as the column has them: valid_from = 2024-05-01")
    if column.dtype.is_float():
        refuse_first(kept, column.is_nan(), rule.column, asker, "a number")
    return column, (rule.valid_from, rule.test_from)


def _instants(kept: pl.DataFrame, rule: TimeSplit, aware: bool) -> pl.Series:
    """Datetime without a zone: UTC if `aware`, else what the clock shows."""
    column = kept[rule.column]
    if column.dtype == pl.String:
        return _parsed(kept, rule, aware)
    if column.dtype == pl.Date and not aware:
        return column.cast(pl.Datetime("us"))
    if not isinstance(column.dtype, pl.Datetime):
        _refuse_column(rule, column, "numbers" if column.dtype.is_numeric() else "what the column has")
    zone = column.dtype.time_zone if isinstance(column.dtype, pl.Datetime) else None
    if aware and zone is None:
        _refuse_column(rule, column, "times without a zone, as the column has them")
    if aware:
        column = column.dt.convert_time_zone("UTC")
    return (column.dt.replace_time_zone(None) if zone else column).cast(pl.Datetime("us"))


def _parsed(kept: pl.DataFrame, rule: TimeSplit, aware: bool) -> pl.Series:
    texts = kept[rule.column].str.strip_chars()
    parts = texts.to_frame("text").select(
        *(pl.col("text").str.extract(_ISO, group).alias(str(group)) for group in range(1, 6))
    )
    clock = pl.concat_str(
        "1", pl.lit(" "), pl.col("2").fill_null("00:00"), pl.col("3").fill_null(":00"), pl.col("4").fill_null("")
    )
    zone = pl.col("5").replace("Z", "+0000").str.replace(":", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3, 2).cast(pl.Int64)
    minutes = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes)
    time = clock.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    moved = time - pl.duration(minutes=minutes) if aware else time
    parsed = parts.select(moved.alias("time")).to_series()
    allowed = "a date or a date-time like 2024-05-01T12:00:00" + ("+00:00, with its offset" if aware else "")
    refuse_first(kept, parsed.is_null(), rule.column, "time split", allowed)
    return parsed


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _refuse_column(rule: TimeSplit, column: pl.Series, needs: str) -> None:
    raise InputError(
        "the time split and its column do not compare",
        where=f"column {rule.column!r}",
        found=f"valid_from = {rule.valid_from!r}, and a column of {column.dtype}",
        allowed=needs,
        fix="write valid_from and test_from of [split] in schema.toml as the column has them",
    )
