"""What a data set holds: fields, vocabulary sizes, skew, label rate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from amtl_export.data.beside import GROUP
from amtl_export.data.counting import COUNTED_BYTES, ValueCounter, keep_within
from amtl_export.data.expressions import label_column
from amtl_export.data.gathered import Gathered
from amtl_export.data.normalise import normalisations
from amtl_export.data.rows import read_rows
from amtl_export.data.source import Source
from amtl_export.data.spill import Spill
from amtl_export.errors import InputError
from amtl_export.stages import stage


@dataclass(frozen=True)
class FieldSummary:
    """One embedded field of a data set.

    Attributes:
        values: distinct values.
        missing_ratio: occurrences that are missing.
        once_ratio: distinct values that occur once.
        top1pct_share: share of all occurrences held by the most frequent 1 % of values (at least one).
        zipf_exponent: slope of log count over log rank, the sign turned; None below ten values.
    """

    name: str
    kind: str
    governed: bool
    values: int
    occurrences: int
    missing_ratio: float
    once_ratio: float
    top1pct_share: float
    zipf_exponent: float | None


@dataclass(frozen=True)
class NumericSummary:
    """One numeric field of a data set."""

    name: str
    missing_ratio: float
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True)
class JoinSummary:
    """One side file; rows whose key is missing or not in it are `unmatched`."""

    file: str
    key: str
    unmatched: int


@dataclass(frozen=True)
class DataSummary:
    """A data set at a glance, over all its splits.

    Attributes:
        label_rate: part of the rows that the label, of several the first, is true for.
        label_rates: the same of each of several labels, by name.
        groups: that group AUC is the mean of; None if the schema names no group.
        weighted: whether rows have weights; what is counted here has none.
        joins: the side files that the schema joins.
    """

    data: str
    rows: int
    label_rate: float
    split_rows: tuple[int, int, int]
    fields: tuple[FieldSummary, ...]
    numeric: tuple[NumericSummary, ...]
    groups: int | None = None
    weighted: bool = False
    joins: tuple[JoinSummary, ...] = ()
    label_rates: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def describe(
    source: Source, seed: int = 0, limit_rows: int | None = None, counted_bytes: int = COUNTED_BYTES
) -> DataSummary:
    """One pass over all rows of the source; values beyond `counted_bytes` wait in the folder that TMPDIR names.

    Raises:
        InputError: as `read_rows`; no row passes the schema's filter.
        EnvironmentLacks: no room in that folder.
    """
    with Spill(Path(tempfile.gettempdir())) as spill:
        return _described(source, seed, limit_rows, partial(keep_within, counted_bytes, spill=spill))


def _described(
    source: Source, seed: int, limit_rows: int | None, bound: Callable[[Collection[ValueCounter]], None]
) -> DataSummary:
    schema, specs = source.schema, normalisations(source.schema)
    counters = {f.name: ValueCounter(f.name, specs[f.name].vocabulary_type) for f in schema.embedded}
    split_rows, positives = [0, 0, 0], dict.fromkeys(schema.labels, 0)
    extremes: dict[str, list[pl.DataFrame]] = {f.name: [] for f in schema.numeric}
    groups = Gathered({GROUP: pl.UInt64()}, pl.DataFrame.unique)
    unmatched = [0] * len(schema.joins)
    stage("reading the rows")
    for chunk in read_rows(source, seed, limit_rows):
        unmatched = [total + count for total, count in zip(unmatched, chunk.unmatched, strict=True)]
        if schema.group is not None:
            groups.add(chunk.fields.select(pl.col(GROUP).unique()))
        for number, label in enumerate(positives):
            positives[label] += int(chunk.fields[label_column(number)].sum())
        for index in range(3):
            split_rows[index] += len(chunk.of_split(index))
        for name, counter in counters.items():
            values = chunk.fields[name]
            counter.add(values.explode() if isinstance(values.dtype, pl.List) else values)
        bound(counters.values())
        for name, parts in extremes.items():
            column = pl.col(name)
            parts.append(
                chunk.fields.select(low=column.min(), high=column.max(), missing=column.null_count().cast(pl.Int64))
            )
    rows = sum(split_rows)
    if not rows and schema.filter is not None:
        raise InputError(
            "no row passes the filter",
            where=source.path or source.name,
            found=repr(schema.filter),
            fix="correct filter in schema.toml",
        )
    fields = tuple(_field_summary(f.name, f.kind, f.governed, counters[f.name]) for f in schema.embedded)
    numeric = tuple(_numeric_summary(name, parts, rows) for name, parts in extremes.items())
    split = (split_rows[0], split_rows[1], split_rows[2])
    counted = None if schema.group is None else len(groups.whole())
    weighted = schema.weight is not None
    joins = tuple(JoinSummary(j.file, j.key, count) for j, count in zip(schema.joins, unmatched, strict=True))
    rates = {label: positive / max(rows, 1) for label, positive in positives.items()}
    main, *_ = rates.values()
    return DataSummary(
        source.name, rows, main, split, fields, numeric, counted, weighted, joins, rates if schema.label_names else {}
    )


def _field_summary(name: str, kind: str, governed: bool, counter: ValueCounter) -> FieldSummary:
    counts = counter.occurrences()
    total = int(counts.sum()) + counter.missing
    top = counts[: max(1, len(counts) // 100)]
    return FieldSummary(
        name=name,
        kind=kind,
        governed=governed,
        values=len(counts),
        occurrences=total,
        missing_ratio=counter.missing / max(total, 1),
        once_ratio=float((counts == 1).mean()) if len(counts) else 0.0,
        top1pct_share=float(top.sum()) / max(total, 1),
        zipf_exponent=_zipf(counts.astype(np.float64)) if len(counts) >= 10 else None,
    )


def _zipf(counts: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    rank = np.log(np.arange(1, len(counts) + 1))
    return -float(np.polyfit(rank, np.log(counts), 1)[0])


def _numeric_summary(name: str, parts: list[pl.DataFrame], rows: int) -> NumericSummary:
    low, high, missing = (
        pl.concat(parts).select(pl.col("low").min(), pl.col("high").max(), pl.col("missing").sum()).row(0)
    )
    return NumericSummary(name, missing / max(rows, 1), low, high)
