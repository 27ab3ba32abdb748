"""Columns of a chunk beside fields and label: the group that a row is in, and its weight."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from amtl_export.data.schema import Schema
from amtl_export.data.source import FILE, ROW
from amtl_export.errors import InputError

GROUP = "__group"
WEIGHT = "__weight"


def beside(kept: pl.DataFrame, fields: list[pl.Series], schema: Schema) -> list[pl.Series]:
    """`__group` UInt64 and `__weight` Float32, those that the schema asks for.

    Args:
        kept: raw rows.
        fields: the same rows as typed fields.
        schema: says which columns.

    Raises:
        InputError: a weight that is no finite number >= 0.
    """
    columns = []
    if schema.group is not None:
        typed = {series.name: series for series in fields}
        columns.append(_group(typed.get(schema.group, kept[schema.group_column or ""])))
    if schema.weight_column is not None:
        columns.append(_weight(kept, schema.weight_column))
    return columns


def _group(values: pl.Series) -> pl.Series:
    """The first eight bytes of BLAKE2b of each value's text, the same on every machine; 0 where there is none."""
    texts = values.cast(pl.String)
    every = texts.unique().drop_nulls()
    hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in every)
    known = pl.Series(np.frombuffer(b"".join(hashes), dtype="<u8"), dtype=pl.UInt64)
    return texts.replace_strict(every, known, default=0, return_dtype=pl.UInt64).alias(GROUP)


def _weight(kept: pl.DataFrame, column: str) -> pl.Series:
    values = kept[column]
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    known = values.dtype == pl.String or values.dtype.is_numeric() or values.dtype == pl.Boolean
    number = (
        values.cast(pl.Float64, strict=False) if known else pl.repeat(None, len(values), dtype=pl.Float64, eager=True)
    )
    weight = number.cast(pl.Float32)
    bad = ~(weight.is_finite() & (number >= 0)).fill_null(False)
    if bad.any():
        first = bad.arg_max() or 0
        raise InputError(
            "weight: a value cannot be used",
            where=f"{kept[FILE][first]}, row {kept[ROW][first] + 1}, column {column!r}",
            found=repr(kept[column][first]),
            allowed="a finite number >= 0 in every row",
            fix="correct or drop the row, leave it out by filter = …, or drop weight = … in schema.toml",
        )
    return weight.alias(WEIGHT)
