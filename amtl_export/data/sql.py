"""SQL expressions of a schema, labels and `filter`: of one row each, over columns that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

#: Parts of an expression that take several rows together: chunks of a file would each have their own answer.
_SEVERAL_ROWS = {
    *("Agg", "Len", "Over", "Rolling", "Explode", "Sort", "SortBy", "Gather", "Filter", "Slice", "Selector"),
    *("Quantile", "NullCount", "Shift", "ShiftAndFill", "Rank", "Random", "Correlation", "Any", "All"),
}

#: Operators that nest what stands before them: Polars' own parser overflows the stack, and ends the process, on many.
_NESTING = re.compile(r"\b(?:and|or|when|not|like|cast)\b|(?<=[^\s(,])\s*(?:[-+*/%|&^]|::)", re.IGNORECASE)
_IN_QUOTES = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_MOST_OPERATORS = 2000

_QUOTED = "a column whose name is no plain word goes in double quotes, '\"click rate\"'"


def columns_of(expression: str, what: str) -> list[str]:
    """The columns of an expression, once for each time that it names them.

    Args:
        expression: a column, or SQL.
        what: `label` or `filter`, for errors.

    Raises:
        ValueError: it is neither, names no column, gives one another name, takes several rows together, or nests
            too deep.
    """
    shown = expression if len(expression) <= 300 else f"{expression[:300]}…"
    operators = sum(1 for _ in _NESTING.finditer(_IN_QUOTES.sub("x", expression)))
    deep = (
        f"{what} nests too deep, with {operators:,} operators: {shown!r}; many values of one column are "
        "`column in (1, 2, 3)`, and anything else is best a column of the data"
    )
    if operators > _MOST_OPERATORS:
        raise ValueError(deep)
    try:
        parsed = pl.sql_expr(expression)
        kinds = set(_kinds(json.loads(parsed.meta.serialize(format="json"))))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{what} is not a column or SQL expression: {shown!r} ({error}); {_QUOTED}") from None
    except RecursionError:
        raise ValueError(deep) from None
    columns = parsed.meta.root_names()
    if not columns:
        raise ValueError(f"{what} names no column: {shown!r} is the same in every row")
    if not parsed.meta.undo_aliases().meta.eq(parsed):
        raise ValueError(f"{what} gives column {columns[0]!r} another name: {shown!r}; {_QUOTED}")
    if together := sorted(_SEVERAL_ROWS & kinds):
        raise ValueError(
            f"{what} takes several rows together ({', '.join(together)}): {shown!r}; it is computed row by row: "
            "add a column for it to the data"
        )
    return columns


def _kinds(tree: Any) -> Iterator[str]:
    """The kinds of nodes of Polars' own tree, and what functions are called; names, values and options are none."""
    if isinstance(tree, dict):
        for kind, inner in tree.items():
            if kind == "Function":
                yield from _function(inner["function"])
                yield from _kinds(inner["input"])
            elif kind not in ("Column", "Literal"):
                yield kind
                yield from _kinds(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _kinds(inner)
    elif isinstance(tree, str):
        yield tree


def _function(called: Any) -> Iterator[str]:
    """Its name: of a text or a list it takes one row's, whatever it is called."""
    name = next(iter(called)) if isinstance(called, dict) else called
    yield from _function(called[name]) if name == "Boolean" else (name,)
