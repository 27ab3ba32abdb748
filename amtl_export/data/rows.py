"""From a chunk of raw columns to typed fields, a label and a split; every refusal names its row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from amtl_export.data.beside import beside
from amtl_export.data.schema import SPLITS, ColumnSplit, FieldSchema, RandomSplit, Schema, TimeSplit
from amtl_export.data.source import FILE, ROW, Source
from amtl_export.errors import InputError

LABEL = "__label"
SPLIT = "__split"


@dataclass(frozen=True)
class Chunk:
    """Typed rows.

    Attributes:
        fields: one column per field: String or Int64 for categorical, Float64 for numeric, List for
            multi-valued; null is missing; plus `__label` UInt8 and `__split` UInt8 (index into SPLITS),
            and `__group` UInt64 and `__weight` Float32 if the schema asks for them.
    """

    fields: pl.DataFrame

    def of_split(self, index: int) -> pl.DataFrame:
        """The rows of one split, in order."""
        return self.fields.filter(pl.col(SPLIT) == index)


def read_rows(source: Source, seed: int, limit_rows: int | None = None) -> Iterator[Chunk]:
    """One pass over the source, the same rows in the same splits each time.

    Args:
        source: where the rows come from.
        seed: of the random split.
        limit_rows: stop after this many rows that pass the filter.

    Raises:
        InputError: a value that is no number, a label that is not 0 or 1, an unknown split.
    """
    schema = source.schema
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5B11]))
    left = limit_rows
    for raw in source.chunks():
        numbers = _numbers(raw, schema)
        kept = numbers.filter(pl.sql_expr(schema.filter)) if schema.filter else numbers
        if left is not None:
            kept = kept.head(left)
            left -= len(kept)
        label = _label(kept, schema)
        fields = [_field(kept, field) for field in schema.fields]
        yield Chunk(pl.DataFrame([*fields, label, _split(kept, schema, rng), *beside(kept, fields, schema)]))
        if left == 0:
            return


def _numbers(raw: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Cast columns that are compared or used as numbers to Float64."""
    asked = schema.expression_columns()
    asked |= {f.source_column: f"numeric field {f.name}" for f in schema.numeric}
    missing = {f.source_column: f.missing for f in schema.numeric}
    casts = []
    for column, asker in asked.items():
        values = raw[column]
        if values.dtype == pl.String:
            values = values.str.strip_chars().set(values.is_in(["", *missing.get(column, ())]).fill_null(False), None)
        number = values.cast(pl.Float64, strict=False)
        refuse_first(raw, number.is_null() & values.is_not_null(), column, asker, "a number")
        casts.append(number.alias(column))
    return raw.with_columns(casts)


def refuse_first(raw: pl.DataFrame, bad: pl.Series, column: str, asker: str, allowed: str) -> None:
    """Raise on the first row where `bad` is true, naming file, row, column and value.

    Raises:
        InputError: some row is bad.
    """
    first = bad.arg_max() if bad.any() else None
    if first is None:
        return
    value = raw[column][first] if column in raw.columns else None
    raise InputError(
        f"{asker}: a value cannot be used",
        where=f"{raw[FILE][first]}, row {raw[ROW][first] + 1}, column {column!r}",
        found=repr(value),
        allowed=allowed,
        fix="correct or drop the row, or name the text under missing = [...] in schema.toml",
    )


def _label(kept: pl.DataFrame, schema: Schema) -> pl.Series:
    try:
        label = kept.select(pl.sql_expr(schema.label).cast(pl.Float64).alias(LABEL)).to_series()
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "the label expression cannot be computed",
            found=schema.label,
            allowed="0 and 1, or true and false",
        ) from error
    bad = label.is_null() | label.is_nan() | ~label.is_in([0.0, 1.0])
    column = pl.sql_expr(schema.label).meta.root_names()[0]
    refuse_first(kept, bad.fill_null(True), column, f"label {schema.label!r}", "0 or 1 in every row")
    return label.cast(pl.UInt8)


def _field(kept: pl.DataFrame, field: FieldSchema) -> pl.Series:
    values = kept[field.source_column]
    if field.kind == "numeric":
        infinite = values.is_infinite().fill_null(False)
        refuse_first(kept, infinite, field.source_column, f"numeric field {field.name}", "a finite number")
        return values.fill_nan(None).alias(field.name)
    if field.kind in ("multi-valued", "sequence"):
        return _many(values, field, kept).alias(field.name)
    if values.dtype == pl.String and field.missing:
        values = values.set(values.is_in(field.missing).fill_null(False), None)
    return _typed(values, field, kept).alias(field.name)


def _many(values: pl.Series, field: FieldSchema, kept: pl.DataFrame) -> pl.Series:
    if not isinstance(values.dtype, pl.List):
        values = values.cast(pl.String).str.split(field.separator)
    element = pl.element()
    if values.dtype == pl.List(pl.String):
        nothing = ["", *field.missing]
        texts = element.str.strip_chars()
        values = values.list.eval(texts.filter(~texts.is_in(nothing)))
    values = values.list.eval(element.drop_nulls()).list.head(field.max_length)
    if field.type == "int64":
        cast = values.list.eval(element.cast(pl.Int64, strict=False))
        bad = cast.list.eval(element.is_null()).list.any()
        refuse_first(kept, bad.fill_null(False), field.source_column, f"field {field.name}", "whole numbers")
        return cast
    return values.cast(pl.List(pl.String))


def _typed(values: pl.Series, field: FieldSchema, kept: pl.DataFrame) -> pl.Series:
    if field.type == "string":
        return values.cast(pl.String)
    cast = values.cast(pl.Int64, strict=False)
    fraction = (
        (values != cast).fill_null(False) if values.dtype.is_float() else pl.repeat(False, len(values), eager=True)
    )
    bad = (cast.is_null() & values.is_not_null()) | fraction
    refuse_first(kept, bad, field.source_column, f"field {field.name}", 'a whole number (or type = "string")')
    return cast


def _split(kept: pl.DataFrame, schema: Schema, rng: np.random.Generator) -> pl.Series:
    rule = schema.split
    if isinstance(rule, RandomSplit):
        draw = rng.random(len(kept))
        index = (draw < rule.valid).astype(np.uint8) + 2 * ((draw >= rule.valid) & (draw < rule.valid + rule.test))
        return pl.Series(SPLIT, index.astype(np.uint8))
    column = kept[rule.column]
    if isinstance(rule, TimeSplit):
        if isinstance(rule.valid_from, str):
            column = column.cast(pl.String)
        asker = "time split"
        refuse_first(kept, column.is_null(), rule.column, asker, "a time in every row")
        late = (column >= rule.valid_from).cast(pl.UInt8) + (column >= rule.test_from).cast(pl.UInt8)
        return late.cast(pl.UInt8).alias(SPLIT)
    assert isinstance(rule, ColumnSplit)
    names = {getattr(rule, split): index for index, split in enumerate(SPLITS)}
    known = column.cast(pl.String).replace_strict(names, default=None, return_dtype=pl.UInt8)
    refuse_first(kept, known.is_null(), rule.column, "column split", f"one of {sorted(names)}")
    return known.alias(SPLIT)
