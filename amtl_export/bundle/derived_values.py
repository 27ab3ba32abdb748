"""Raw values of fields whose values are made of the data's: for samples, golden rows and checks."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from amtl_export.data.normalise import Normalisation
from amtl_export.data.times import PER_SECOND, RANGES

#: Seconds since 1970 where times are odd: its beginning, and before; leap days; far years.
_SECONDS = (0, -1, -86400, 951782400, 1709251199, 4107542400, -2203891200, -(10**12), 10**12)

#: ISO texts of such times.
_TIMES = (
    *("1970-01-01T00:00", "1969-12-31 23:59:59", "2000-02-29T12:00:00Z", "2024-02-29T23:59:59.999+05:30"),
    *("2100-03-01 00:00:00.000000", "1900-02-28T01:02-0800", "0001-01-01T06:00", "9999-12-31T23:59:59"),
)


def possible(spec: Normalisation) -> range:
    """The values that such a field may have."""
    return range(len(spec.boundaries) + 1) if spec.part is None else RANGES[spec.part]


def raw_of(value: int, spec: Normalisation) -> float | int | None:
    """What a graph takes for such a field's value; None if there is nothing that is not missing."""
    if spec.part is None:
        return number_in(value, spec)
    if spec.unit is None:
        return value
    days = {"weekday": (value - 3) % 7, "day": value - 1, "month": 31 * (value - 1), "hour": 0}[spec.part]
    found = (days * 86400 + (value * 3600 if spec.part == "hour" else 0)) * PER_SECOND[spec.unit]
    while found in spec.missing_whole:
        found += 1
    return found


def examples(spec: Normalisation) -> list[Any]:
    """Raw values of such a field, as rows have them."""
    if spec.buckets is not None:
        return ["a", "b  c", "ünïcode", "7"] if spec.type == "string" else [0, -7, 2**63 - 1]
    if spec.boundaries:
        with np.errstate(over="ignore"):
            below = np.nextafter(np.array(spec.boundaries, dtype=np.float32), np.float32(-np.inf))
        return [*spec.missing_numbers, *spec.boundaries, *below[np.isfinite(below)].tolist()]
    if spec.unit is not None:
        return [*spec.missing_whole, *(seconds * PER_SECOND[spec.unit] for seconds in _SECONDS)]
    dates = [] if spec.part == "hour" else [text[:10] for text in _TIMES]
    return [*spec.missing_texts, *_TIMES, *dates]


@np.errstate(over="ignore")
def number_in(bucket: int, spec: Normalisation) -> float | None:
    """A number that has reached so many boundaries and is not missing; None if there is none."""
    lowest = np.float32(spec.boundaries[0])
    up = [np.float32(spec.boundaries[bucket - 1])]
    down = [lowest - max(np.float32(1), abs(lowest)), np.nextafter(lowest, np.float32(-np.inf))]
    for start in up if bucket else down:
        found = start
        while np.isfinite(found) and float(found) in spec.missing_numbers:
            found = np.nextafter(found, np.float32(np.inf if bucket else -np.inf))
        if np.isfinite(found) and bisect.bisect_right(spec.boundaries, float(found)) == bucket:
            return float(found)
    return None
