"""From a chunk of raw columns to typed fields, a label and a split; every refusal names its row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from amtl_export.data.beside import beside
from amtl_export.data.expressions import Expressions
from amtl_export.data.joins import unmatched_column
from amtl_export.data.normalise import Normalisation, normalisations, normalised
from amtl_export.data.refusal import OR_MISSING, refuse_first
from amtl_export.data.source import Source
from amtl_export.data.splits import SPLIT, split_of_rows


@dataclass(frozen=True)
class Chunk:
    """Typed rows.

    Attributes:
        fields: one column per field: String or Int64 for categorical, Float32 for numeric, List for
            multi-valued; null is missing; plus `__label_0`, `__label_1`, … UInt8 and `__split` UInt8 (index into
            SPLITS), and `__group` UInt64 and `__weight` Float32 if the schema asks for them.
        raw: the data's own and joined columns that the fields are made of, row by row.
        unmatched: of each join, rows whose key is missing or not in the side file.
    """

    fields: pl.DataFrame
    raw: pl.DataFrame
    unmatched: tuple[int, ...] = ()

    def of_split(self, index: int) -> pl.DataFrame:
        """The rows of one split, in order."""
        return self.fields.filter(pl.col(SPLIT) == index)

    def raw_of_split(self, index: int) -> pl.DataFrame:
        """The same rows as the data has them."""
        return self.raw.filter(self.fields[SPLIT] == index)


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
    specs = list(normalisations(schema).values())
    columns = sorted({spec.column for spec in specs})
    expressions = Expressions(schema)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5B11]))
    left = limit_rows
    for raw in source.chunks():
        kept = expressions.kept(raw)
        if left is not None:
            kept = kept.head(left)
            left -= len(kept)
        fields = typed_fields(kept, specs)
        split = split_of_rows(kept, schema, rng)
        typed = pl.DataFrame([*fields, *expressions.labels(kept), split, *beside(kept, fields, schema)])
        unmatched = tuple(int(kept[unmatched_column(number)].sum()) for number in range(len(schema.joins)))
        yield Chunk(typed, kept.select(columns), unmatched)
        if left == 0:
            return


def typed_fields(raw: pl.DataFrame, specs: Iterable[Normalisation]) -> list[pl.Series]:
    """Fields of a chunk of raw rows, one series each.

    Raises:
        InputError: a value cannot be used; names file and row.
    """
    return [_field(raw, spec) for spec in specs]


def _field(kept: pl.DataFrame, spec: Normalisation) -> pl.Series:
    def refuse(bad: pl.Series, allowed: str) -> None:
        what = "numeric field" if spec.type == "float32" else "field"
        refuse_first(kept, bad.fill_null(False), spec.column, f"{what} {spec.field}", allowed, OR_MISSING)

    return normalised(kept[spec.column], spec, refuse).alias(spec.field)
