"""libsvm and libffm: a line is a label and `index:value` or `field:index:value`; the values must be 1.

libsvm gives the columns `label` and `features`, libffm `label` and `field_<n>`: lists of the indices, as texts.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import polars as pl

from amtl_export.data.frames import ROW, Reading
from amtl_export.data.text_files import EMPTY_LINE, WRONG_LINE, SplitCheck, scan_lines

_FIELD = re.compile(r"field_(0|[1-9][0-9]*)")
_ONE = r"1(?:\.0*)?"
_LABEL = r"^[^:#]+$"
_FIX = "a value other than 1 is a numeric field, which CSV or Parquet can hold; take comments and qid: out of the lines"


def read_libsvm(file: Path) -> Reading:
    """Columns `label`, a String, and `features`, a List of String."""
    good = rf"^([0-9]+):{_ONE}$"
    features = _pairs().list.eval(pl.element().str.extract(good, 1)).alias("features")
    return _reading(file, good, [features], "a label and index:1 index:1 …")


def read_libffm(file: Path, columns: set[str]) -> Reading:
    """Columns `label`, a String, and those of `columns` that are called `field_<n>`, Lists of String.

    Args:
        file: to read.
        columns: that are asked for.
    """
    numbers = sorted(int(found[1]) for name in columns if (found := _FIELD.fullmatch(name)))
    fields = [
        _pairs().list.eval(pl.element().str.extract(rf"^0*{n}:([0-9]+):{_ONE}$", 1).drop_nulls()).alias(f"field_{n}")
        for n in numbers
    ]
    return _reading(file, rf"^[0-9]+:[0-9]+:{_ONE}$", fields, "a label and field:index:1 field:index:1 …")


def _words() -> pl.Expr:
    return pl.col("line").str.replace_all(r"\s+", " ").str.strip_chars().str.split(" ")


def _pairs() -> pl.Expr:
    return _words().list.slice(1)


def _reading(file: Path, good: str, columns: list[pl.Expr], allowed: str) -> Reading:
    label = _words().list.first()
    bad = _pairs().list.eval(~pl.element().str.contains(good)).list.any() | ~label.str.contains(_LABEL)
    first = _pairs().list.eval(pl.element().filter(~pl.element().str.contains(good))).list.first()
    wrong = pl.when(bad).then(pl.coalesce(first, label)).alias(WRONG_LINE)
    empty = (pl.col("line").str.strip_chars() == "").alias(EMPTY_LINE)
    frame = scan_lines(file).select(ROW, wrong, empty, label.alias("label"), *columns)
    return Reading(frame, functools.partial(SplitCheck, file, allowed, _FIX, "a value of the line cannot be used"))
