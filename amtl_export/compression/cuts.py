"""Cuts of a model whose bases are placed in one way: dims, tables as narrow as is cheap, bytes and AUC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.compression.coding import cut_model, trial_model, whole_model
from amtl_export.compression.metric import Rows
from amtl_export.compression.readers import Readers
from amtl_export.compression.report import BasisKind, Point
from amtl_export.compression.trial import rounded
from amtl_export.compression.uncut import RowGroup, Uncut
from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import numbers
from amtl_export.principal.dims import Dims, dims_at, dims_within, narrowed
from amtl_export.principal.dims import Rows as CutRows
from amtl_export.spec import Feed
from amtl_export.stages import stage
from amtl_export.tables.cost import dense_bytes, ragged_bytes
from amtl_export.tables.values import NARROW, ValueType, value_type

#: Examples on which answers before the cut are compared.
_COMPARED = 4096

#: What a change of bases alone may move a score by, against the largest score: some roundings of float32.
_ROUNDING = 1e-4

#: Rows may end at one width for each table where that adds at most this part to the damage of the cut.
_NARROWING = 0.12

#: With a budget and labelled examples, tables are as narrow as costs at most so much AUC.
_NARROWING_DROP = 4e-5


#: float `[examples · scores]`.
Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attempt:
    """A cut that was tried.

    Attributes:
        point: what it costs.
        dims: table and first row of a field → its dims.
        projection_bytes: of the point's bytes, those of bases that stay.
    """

    point: Point
    dims: Mapping[Rows, Dims]
    projection_bytes: int


class Cuts:
    """Cuts of a model whose bases are placed in one way, each tried once."""

    def __init__(self, work: Uncut, kind: BasisKind) -> None:
        self.work, self.kind = work, kind
        self.coded = work.coded(kind)
        self.fields = [self._cut_rows(group) for group in work.groups]
        self.readers = Readers(whole_model(work.plain, self.coded))
        self.tried: list[Point] = []

    def _cut_rows(self, group: RowGroup) -> CutRows:
        numbers, weights = self.coded.numbers(group.rows, group.size), self.coded.bases[group.rows].weights
        return CutRows(numbers, self.work.counts[group.rows], weights, self.work.whole[group.rows])

    @property
    def numbers(self) -> int:
        """Of all rows that are cut."""
        return sum(int(own.longest.sum()) for own in self.fields)

    def moved(self) -> float:
        """How far scores move by the change of bases alone, over the examples at hand.

        Raises:
            ValidationFailed: further than by roundings.
        """
        scores, apart = scores_apart(self.work.plain, whole_model(self.work.plain, self.coded), self.work.original)
        largest, most = float(apart.max(initial=0.0)), float(np.abs(scores).max(initial=0.0))
        if not largest <= _ROUNDING * max(most, 1.0):
            raise ValidationFailed(
                "compress: another basis alone changes the answers",
                found=largest,
                allowed=_ROUNDING * max(most, 1.0),
                fix="report this; freeze and export the model without compress meanwhile",
            )
        return largest

    def within(self, ratio: float, width: int | None = None) -> list[Dims]:
        """Dims of at most ratio·D on average, in tables that are narrow where that is cheap.

        Args:
            ratio: R.
            width: dims of a row, at most; None takes what adds hardly to the damage.
        """
        most = int(ratio * self.numbers + 1e-9)
        if width is not None:
            return dims_within(self._at_most([width] * len(self.fields)), most)
        dims = self._narrowed(dims_within(self.fields, most))
        longest = [int(own.max(initial=1)) for own in dims]
        widest = {
            table: max(w for w, t in zip(longest, self._tables, strict=True) if t == table) for table in self._tables
        }
        return dims_within(self._at_most([widest[table] for table in self._tables]), most)

    def _at_most(self, widths: Sequence[int]) -> list[CutRows]:
        """What is cut, the rows of each group no longer than a width; those of wide tables as they are."""
        return [
            own if table is None else replace(own, longest=np.minimum(own.longest, min(width, own.numbers.shape[1])))
            for own, table, width in zip(self.fields, self._tables, widths, strict=True)
        ]

    def narrowest(self, ratio: float, dtype: ValueType) -> Attempt:
        """The cut to a budget in the narrowest tables that cost hardly more AUC than the best ones."""
        most = int(ratio * self.numbers + 1e-9)
        whole = dims_within(self.fields, most)
        best = self.attempt(whole, dtype)
        low, high = 1, max(int(own.max(initial=1)) for own in whole)
        if all(table is None for table in self._tables):
            return best
        if best.point.auc_valid is None:
            return self.attempt(self.within(ratio), dtype)
        least = best.point.auc_valid - _NARROWING_DROP
        while low < high:
            width = (low + high) // 2
            dims = self.within(ratio, width)
            found = None if sum(int(own.sum()) for own in dims) < 0.8 * most else self.attempt(dims, dtype)
            if found is not None and found.point.auc_valid is not None and found.point.auc_valid >= least:
                best, high = found, width
            else:
                low = width + 1
        return best

    def at(self, price: float) -> list[Dims]:
        """Dims for a price of one number."""
        return self._narrowed(dims_at(self.fields, price))

    def _narrowed(self, dims: list[Dims]) -> list[Dims]:
        return narrowed(self.fields, dims, self._tables, _NARROWING)

    @cached_property
    def _tables(self) -> list[str | None]:
        """The table of each group; None where other rows keep it as wide as it is."""
        wide = {path for (path, _), _ in self.work.others()}
        return [None if group.rows[0] in wide else group.rows[0] for group in self.work.groups]

    def attempt(self, dims: Sequence[Dims], dtype: ValueType = "fp32") -> Attempt:
        """Cut, and see what it costs."""
        stage(f"trying a cut, {self.kind}, {dtype}")
        chosen = dict(zip((group.rows for group in self.work.groups), dims, strict=True))
        model = trial_model(self.work.plain, self.coded, chosen)
        ratio = sum(int(own.sum()) for own in dims) / self.numbers
        tables = table_bytes(model, dtype)
        aucs = self.work.aucs(rounded(model, dtype))
        size = tables + self._projection_bytes(model)
        point = Point(self.kind, dtype, ratio, size, self.work.judged(aucs), aucs if len(aucs) > 1 else {})
        self.tried.append(point)
        auc = "" if point.auc_valid is None else f", valid AUC {point.auc_valid:.5f}"
        self.work.note(f"{self.kind}, {dtype}: mean dims {ratio:.3f} D, {size:,} bytes{auc}")
        return Attempt(point, chosen, size - tables)

    def model(self, dims: Mapping[Rows, Dims]) -> FrozenModel:
        """The model cut at some dims."""
        return cut_model(self.work.plain, self.coded, dims)

    def allowed(self, point: Point, drop: float) -> bool:
        """Whether a cut costs at most so much AUC."""
        before = self.work.auc_before
        return before is not None and point.auc_valid is not None and before - point.auc_valid <= drop

    def _projection_bytes(self, model: FrozenModel) -> int:
        """Of bases that stay, as narrow as the cut leaves them."""
        projected = {path for path, _ in self.readers.projected()}
        return sum(4 * table.bases.numel() for path, table in model.coded.items() if path in projected)


def table_bytes(model: FrozenModel, dtype: ValueType = "fp32") -> int:
    """Bytes of all tables in the smaller of the ragged and the dense layout."""
    total = 0
    for table in model.tables.values():
        V, D = table.rows.shape
        own = value_type(table, dtype)
        dense = dense_bytes(V, D, own)
        total += dense if D < NARROW else min(ragged_bytes(table.dims.numpy(), D, own), dense)
    return total


def scores_apart(first: FrozenModel, second: FrozenModel, examples: FrozenModel) -> tuple[Scores, Scores]:
    """The finite scores of one model, and how far another's lie from each: at most float32's largest number.

    Args:
        first: the one.
        second: the other.
        examples: whose labelled examples are answered, or else whose example.
    """
    pairs = [(first.answers(feed), second.answers(feed)) for feed in feeds(examples)]
    one, other = (np.concatenate([numbers(pair[k][n]) for pair in pairs for n in first.scores]) for k in (0, 1))
    scores = one[np.isfinite(one)].astype(np.float64)  # whose squares are finite too
    apart, farthest = np.abs(other[np.isfinite(one)] - scores), float(np.finfo(np.float32).max)
    return scores, np.nan_to_num(apart, nan=farthest, posinf=farthest)


def feeds(frozen: FrozenModel) -> Iterator[Feed]:
    """Requests to compare answers on: labelled examples, or the example."""
    if frozen.labelled is None:
        yield frozen.example
        return
    rows = 0
    for feed, labels in frozen.labelled("valid"):
        yield feed
        rows += len(next(iter(labels.values())))
        if rows >= _COMPARED:
            return
