"""Labels and `filter`: SQL over raw columns, each compared as what the expression compares it with.

A column of texts is one of numbers where the expression has it so (`rating >= 4`), and stays one of texts otherwise
(`act = 'buy'`). These casts are the expression's own: no field sees them. Whole numbers are compared as such, never as
floats; `true` and `false` are 1 and 0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import polars as pl

from amtl_export.data.frames import FILE, ROW
from amtl_export.data.normalise import BLANKS, NUMBER, WHOLE
from amtl_export.data.refusal import OR_FILTER, OR_MISSING, refuse_first
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError


def label_column(number: int) -> str:
    """The column of a chunk that holds a label, counted in the schema's order."""
    return f"__label_{number}"


class Expressions:
    """The labels and the filter of a schema.

    Args:
        schema: of the data.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._texts = {f.source_column for f in schema.embedded if f.type == "string"}
        self._missing = schema.files.missing

    def kept(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The rows where the filter is true; all of them without one.

        Raises:
            InputError: it cannot be computed on these columns, or a value of them cannot be read.
        """
        text = self._schema.filter
        if text is None:
            return raw
        found = self._computed(raw, text, "filter")
        if found.dtype != pl.Boolean:
            number = found.cast(pl.Float64)
            bad = (number.is_nan() | ~number.is_in([0.0, 1.0])).fill_null(False)
            column = pl.sql_expr(text).meta.root_names()[0]
            refuse_first(raw, bad, column, f"filter {text!r}", "0 or 1, or true or false, in every row")
            found = number == 1
        return raw.filter(found)

    def labels(self, raw: pl.DataFrame) -> list[pl.Series]:
        """A column for each label, UInt8, 0 or 1.

        Raises:
            InputError: as `kept`; some row's label is not 0 or 1.
        """
        labels = self._schema.labels.items()
        return [self._label(raw, *label).alias(label_column(number)) for number, label in enumerate(labels)]

    def _label(self, raw: pl.DataFrame, name: str, text: str) -> pl.Series:
        what = f"label {name}" if name else "label"
        label = self._computed(raw, text, what).cast(pl.Float64)
        bad = label.is_null() | label.is_nan() | ~label.is_in([0.0, 1.0])
        column = pl.sql_expr(text).meta.root_names()[0]
        refuse_first(raw, bad.fill_null(True), column, f"{what} {text!r}", "0 or 1 in every row")
        return label.cast(pl.UInt8)

    def _computed(self, raw: pl.DataFrame, text: str, what: str) -> pl.Series:
        """The expression's values: numbers or truth values."""
        expression = pl.sql_expr(text)
        columns = list(dict.fromkeys(expression.meta.root_names()))
        options = [self._readings(raw[column], _asked_for_null_alone(column, text)) for column in columns]
        problems = []
        for readings in itertools.product(*options):
            empty = pl.DataFrame(schema=dict(zip(columns, readings, strict=True)))
            try:
                found = empty.select(expression).to_series().dtype
            except pl.exceptions.PolarsError as error:
                problems.append(str(error).splitlines()[0])
                continue
            if found == pl.Boolean or found.is_numeric():
                try:
                    return self._evaluated(raw, dict(zip(columns, readings, strict=True)), expression, what)
                except pl.exceptions.PolarsError as error:  # a cast of what does not fit, say
                    raise _not_computed(raw, text, what, error) from None
            problems.append(f"it gives {found}")
        raise InputError(
            f"the {what} expression cannot be computed",
            found=f"{text!r}: {problems[0]}",
            allowed="what is 0 or 1, or true or false, in every row",
        )

    def _readings(self, values: pl.Series, anything: bool) -> list[pl.DataType]:
        """As what a column may be compared, the likeliest first; as texts where `anything` will do."""
        if values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            both = [pl.Float64(), pl.String()]
            return both[::-1] if anything or values.name in self._texts else both
        return [values.dtype, pl.String()]

    def _evaluated(
        self, raw: pl.DataFrame, readings: Mapping[str, pl.DataType], expression: pl.Expr, what: str
    ) -> pl.Series:
        columns = [self._read(raw, column, reading, what, expression) for column, reading in readings.items()]
        try:
            return pl.DataFrame(columns).select(expression).to_series()
        except pl.exceptions.PolarsError:  # whole numbers among others in a list, say: as it was tried
            tried = [column.cast(readings[column.name]) for column in columns]
            return pl.DataFrame(tried).select(expression).to_series()

    def _read(self, raw: pl.DataFrame, column: str, reading: pl.DataType, what: str, expression: pl.Expr) -> pl.Series:
        values = raw[column]
        if values.dtype in (pl.Categorical, pl.Enum, pl.Null) or reading == pl.String:
            values = values.cast(pl.String)
        if values.dtype == pl.String or (self._missing and not values.dtype.is_nested()):
            texts = values.cast(pl.String, strict=False)
            values = values.set(texts.is_in(["", *self._missing]).fill_null(False), None)
        if values.dtype != pl.String or reading == pl.String:
            return values
        number = _number(values)
        alone = expression.meta.eq(pl.col(column))
        allowed, fix = "a number", OR_MISSING if what == "filter" else OR_FILTER
        if alone and what.startswith("label"):
            allowed, fix = "0 or 1 in every row", f"say which values are clicks: label = \"{column} = 'yes'\""
        refuse_first(raw, number.is_null() & values.is_not_null(), column, what, allowed, fix)
        return number


def _not_computed(raw: pl.DataFrame, text: str, what: str, error: Exception) -> InputError:
    """What to say where an expression that fits the columns' types fails on their values."""
    return InputError(
        f"the {what} expression cannot be computed",
        where=f"{raw[FILE][0]}, from row {raw[ROW][0] + 1}",
        found=f"{text!r}: {str(error).splitlines()[0]}",
        fix="correct the rows or the expression; TRY_CAST gives null where CAST fails",
    )


def _asked_for_null_alone(column: str, text: str) -> bool:
    """Whether an expression asks of a column only if it `IS NULL`, or is not."""
    name = rf'(?<![\w"]){re.escape(column)}(?![\w"])|"{re.escape(column)}"'
    asked = re.findall(rf"(?:{name})\s+IS\s+(?:NOT\s+)?NULL\b", text, flags=re.IGNORECASE)
    return bool(asked) and len(asked) == len(re.findall(name, text))


def _number(texts: pl.Series) -> pl.Series:
    """Int64 where all are whole numbers, Float64 otherwise; null where a text is none."""
    texts = texts.str.strip_chars(BLANKS)
    truth = texts.str.to_lowercase().replace({"true": "1", "false": "0"})
    if truth.str.contains(WHOLE).all():
        whole = truth.str.replace(r"\.0*$", "").str.strip_prefix("+").cast(pl.Int64, strict=False)
        if whole.null_count() == truth.null_count():
            return whole
    return truth.set(~truth.str.contains(NUMBER).fill_null(False), None).cast(pl.Float64, strict=False)
