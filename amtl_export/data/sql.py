"""SQL expressions of a schema, labels and `filter`: of one row each, over columns that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

#: Parts of an expression that take several rows together: chunks of a file would each have their own answer.
_SEVERAL_ROWS = {
    *("Agg", "Len", "Over", "Rolling", "Explode", "Sort", "SortBy", "Gather", "Filter", "Slice", "Selector"),
    *("Quantile", "NullCount", "Shift", "ShiftAndFill", "Rank", "Random", "Correlation", "Any", "All"),
}

_QUOTED = "a column whose name is no plain word goes in double quotes, '\"click rate\"'"


def columns_of(expression: str, what: str) -> list[str]:
    """The columns of an expression, once for each time that it names them.

    Args:
        expression: a column, or SQL.
        what: `label` or `filter`, for errors.

    Raises:
        ValueError: it is neither, names no column, gives one another name, or takes several rows together.
    """
    try:
        parsed = pl.sql_expr(expression)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{what} is not a column or SQL expression: {expression!r} ({error}); {_QUOTED}") from None
    columns = parsed.meta.root_names()
    if not columns:
        raise ValueError(f"{what} names no column: {expression!r} is the same in every row")
    if not parsed.meta.undo_aliases().meta.eq(parsed):
        raise ValueError(f"{what} gives column {columns[0]!r} another name: {expression!r}; {_QUOTED}")
    if together := sorted(_SEVERAL_ROWS & set(_kinds(json.loads(parsed.meta.serialize(format="json"))))):
        raise ValueError(
            f"{what} takes several rows together ({', '.join(together)}): {expression!r}; it is computed row by row: "
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
