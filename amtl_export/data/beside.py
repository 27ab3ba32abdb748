"""Columns of a chunk beside fields and label: the group that a row is in, and its weight."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from amtl_export.data.normalise import Normalisation, normalised
from amtl_export.data.refusal import refuse_first, refuse_type
from amtl_export.data.schema import Schema

GROUP = "__group"
WEIGHT = "__weight"

_FIX = "correct or drop the row, leave it out by filter = …, or drop weight = … in schema.toml"


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
        values = typed.get(schema.group, kept[schema.group_column or ""])
        refuse_type(values, "group")
        columns.append(_group(values))
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
    """Read as a numeric field is; a missing weight cannot be used either."""

    def refuse(bad: pl.Series, _: str) -> None:
        refuse_first(kept, bad, column, "weight", "a finite number >= 0 in every row", _FIX)

    weight = normalised(kept[column], Normalisation(field="weight", column=column, type="float32"), refuse)
    refuse(weight.is_null() | (weight < 0), "")
    return weight.alias(WEIGHT)
