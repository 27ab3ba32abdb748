"""Parts of a time: hour 0 to 23, weekday 0 (Monday) to 6, day 1 to 31, month 1 to 12, as the data's clock shows it.

A time is a date or date-time, or its ISO text, whose zone or offset is left aside; or a whole number of seconds or
milliseconds since 1970, which is in UTC. The Gregorian calendar is taken for all years.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Part = Literal["hour", "weekday", "day", "month"]
Unit = Literal["s", "ms"]

#: What each part may be.
RANGES: dict[Part, range] = {"hour": range(24), "weekday": range(7), "day": range(1, 32), "month": range(1, 13)}

PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 1000}

#: Groups: the date, the hour.
ISO = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?$"
)


def part_of_texts(texts: pl.Series, part: Part) -> pl.Series:
    """Int64; null where a text is no such time, or is a date where the hour is asked for."""
    date = texts.str.extract(ISO, 1).str.to_date("%Y-%m-%d", strict=False)
    date = date.set((date.dt.year() < 1).fill_null(False), None)
    if part != "hour":
        return part_of_times(date, part)
    return texts.str.extract(ISO, 2).cast(pl.Int64).set(date.is_null(), None)


def part_of_times(times: pl.Series, part: Part) -> pl.Series:
    """Of dates or date-times; Int64, null where the year is none of 1 to 9999."""
    parts = {"hour": times.dt.hour, "weekday": times.dt.weekday, "day": times.dt.day, "month": times.dt.month}
    found = parts[part]().cast(pl.Int64) - (part == "weekday")
    return found.set(~times.dt.year().is_between(1, 9999).fill_null(True), None)


def part_of_epochs(epochs: npt.NDArray[np.int64], part: Part, unit: Unit) -> npt.NDArray[np.int64]:
    """Of whole numbers `[n]`."""
    seconds: npt.NDArray[np.int64] = epochs // PER_SECOND[unit]
    days: npt.NDArray[np.int64] = seconds // 86400
    if part == "hour":
        return (seconds - days * 86400) // 3600
    if part == "weekday":
        return (days + 3) % 7  # 1970 began on a Thursday
    # Howard Hinnant, chrono-Compatible Low-Level Date Algorithms: years that begin in March, eras of 400 of them.
    of_era: npt.NDArray[np.int64] = (days + 719468) % 146097
    year: npt.NDArray[np.int64] = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return (month + 2) % 12 + 1 if part == "month" else of_year - (153 * month + 2) // 5 + 1
