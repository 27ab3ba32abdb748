"""`compress`: a trained model's tables in principal order, each id cut where its tail is worth least.

Nothing is trained. Rows are rewritten in the basis where leading numbers matter most (`basis`), each id keeps the dims
whose damage is worth their bytes (`dims`), and the basis goes into what reads the rows (`graph.passes.fold_bases`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from amtl_export.errors import InputError, ValidationFailed
from amtl_export.freezing.fields import FieldRows
from amtl_export.freezing.frozen import Compressed, FrozenModel, fold, freeze
from amtl_export.freezing.scores import Scores, torch_answers
from amtl_export.principal.basis import Basis, Matrix, covariance, principal_basis, rows_in, shared_basis
from amtl_export.principal.coding import CodedRows, coded_model
from amtl_export.principal.dims import Dims, dims_at, dims_within, price_range
from amtl_export.principal.dims import Rows as CutRows
from amtl_export.principal.metric import Measured, Rows, measure
from amtl_export.principal.readers import Readers
from amtl_export.principal.report import BasisKind, CompressReport, FieldOrder, MetricKind, Placement, Point
from amtl_export.source.binding import bind
from amtl_export.source.call import ModuleCall
from amtl_export.source.source import Batches, Source
from amtl_export.spec import Feed
from amtl_export.tables.cost import dense_bytes, ragged_bytes
from amtl_export.tables.values import NARROW
from amtl_export.training.run import Run

#: Examples whose gradients are looked at.
REQUESTS = 16_384

#: Examples on which answers before the cut are compared.
_COMPARED = 4096

#: What a change of bases alone may move a score by, against the largest score: some roundings of float32.
_ROUNDING = 1e-4

#: Halvings of the price in the search for the largest cut that an AUC drop allows, and budgets of the curve beside it.
_HALVINGS, _BUDGETS = 10, (0.02, 0.05, 0.1, 0.2, 0.4)

#: Allowed AUC drop if neither that nor a budget is given.
DEFAULT_DROP = 1e-4

Note = Callable[[str], None]


def compress(
    frozen: FrozenModel | Run | Source | nn.Module | str | Path,
    *,
    dim_budget: float | None = None,
    max_auc_drop: float | None = None,
    batches: Any = None,
    all_fields: bool = False,
    note: Note = lambda _: None,
) -> FrozenModel:
    """Put a trained model's tables in principal order and cut them; nothing is trained.

    Args:
        frozen: the model, or what `freeze` takes.
        dim_budget: R: mean dims of the fields that are cut are at most R·D.
        max_auc_drop: the smallest table is taken whose AUC on the valid split is at most so much lower; 1e-4 if neither
            this nor `dim_budget` is given.
        batches: (inputs, labels) of real requests, as `Source.batches`; the model's own labelled examples if not given.
            Labels may be None where no AUC is needed.
        all_fields: of a run, cut the fields too that its schema does not mark as governed.
        note: is told how it goes.

    Returns:
        The compressed model; `.compressed.report` is what the command writes as JSON.

    Raises:
        InputError: both or bad limits, no table that can be cut, or no labelled examples where an AUC is needed.
        ValidationFailed: answers before the cut are not the model's.
    """
    _check_limits(dim_budget, max_auc_drop)
    original = freeze(frozen)
    if batches is not None:
        original = replace(original, labelled=_given(original, batches))
    drop = DEFAULT_DROP if dim_budget is None and max_auc_drop is None else max_auc_drop
    work = _Work(original, fold(original), all_fields, note)
    if not work.groups:
        raise InputError("compress: no table can be cut", found=work.left or "no table", fix="see the reasons")
    if drop is not None and work.auc_before is None:
        raise InputError(
            "compress: an AUC drop needs labelled examples",
            found="none" if original.labelled is None else "no AUC: a score is NaN, or all labels are alike",
            fix="Source(…, batches=…), compress(…, batches=…), or give dim_budget",
        )
    found = [_search(work, kind, dim_budget, drop) for kind in work.kinds()]
    best = _best(found, work.auc_before, drop)
    report = _report(work, found, best, dim_budget, drop)
    return replace(best.model, labelled=original.labelled, compressed=Compressed(original, drop, report.to_json()))


def _check_limits(dim_budget: float | None, max_auc_drop: float | None) -> None:
    if dim_budget is not None and max_auc_drop is not None:
        raise InputError(
            "compress: a dim budget and an AUC drop", found=f"{dim_budget} and {max_auc_drop}", fix="give one of them"
        )
    if dim_budget is not None and not 0 < dim_budget <= 1:
        raise InputError("compress: dim_budget", found=dim_budget, allowed="above 0, at most 1")
    if max_auc_drop is not None and not 0 <= max_auc_drop < 1:
        raise InputError("compress: max_auc_drop", found=max_auc_drop, allowed="0 <= drop < 1")


def _given(frozen: FrozenModel, batches: Any) -> Any:
    """Labelled examples as the model's own would be."""
    call = frozen.module.call
    if isinstance(call, ModuleCall):
        module = (frozen.trained or frozen.module).model

        def count(inputs: Any) -> int:
            feed = bind(module, inputs).feed
            return next((len(feed[spec.name]) for spec in frozen.inputs if spec.batched), 1)

        return Source(module, frozen.example, batches=_labelled(batches, count)).labelled(frozen.inputs)
    pairs = _labelled(batches, lambda inputs: len(next(iter(inputs.values()))))

    def rows(_: str) -> Iterator[tuple[Feed, npt.NDArray[np.float64]]]:
        for inputs, labels in pairs():
            feed = {name: np.asarray(values) for name, values in inputs.items()}
            yield feed, np.asarray(labels, dtype=np.float64)

    return rows


def _labelled(batches: Batches, count: Callable[[Any], int]) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """The batches, again at each call; labels of 0 where there are none, which no AUC comes of."""
    kept = list(batches) if isinstance(batches, Iterator) else batches

    def pairs() -> Iterator[tuple[Any, Any]]:
        known: bool | None = None
        for number, (inputs, labels) in enumerate(kept() if callable(kept) else kept):
            if known not in (None, labels is not None):
                raise InputError("compress: some batches have labels and some have none", where=f"batch {number}")
            known = labels is not None
            yield inputs, labels if known else np.zeros(count(inputs))

    return pairs


@dataclass(frozen=True)
class _Group:
    """Rows of a table that one or more fields read."""

    rows: Rows
    name: str
    size: int
    padding: int | None


@dataclass
class _Work:
    """One model being compressed.

    Attributes:
        original: as it was given.
        plain: the same with one row of D numbers for each id.
        all_fields: whether fields that are not governed are cut too.
        note: is told how it goes.
    """

    original: FrozenModel
    plain: FrozenModel
    all_fields: bool
    note: Note
    left: dict[str, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[_Group]:
        """What is cut; what is not is noted in `left`."""
        found: dict[Rows, _Group] = {}
        for own in self.plain.fields:
            reason = self._reason(own)
            rows = own.table, own.offset
            if reason:
                self.left[own.name] = reason
            elif rows in found:
                known = found[rows]
                padding = known.padding if own.padding is None else own.padding
                found[rows] = replace(known, padding=padding)
            else:
                found[rows] = _Group(rows, own.name, own.size, own.padding)
        return list(found.values())

    def _reason(self, own: FieldRows) -> str:
        """Why a field is left as it is; empty if it is not."""
        if own.table not in self.plain.tables:
            return "the model does not read it"
        if own.table in self.plain.read_whole:
            return "the model reads the whole table"
        if self.plain.tables[own.table].rows.shape[1] < NARROW:
            return f"fewer than {NARROW} numbers a row"
        if unfit := _not_finite(self.plain.tables[own.table].rows[own.offset : own.offset + own.size].numpy()):
            return unfit
        if self.plain.data is not None and not own.governed and not self.all_fields and self._any_governed:
            return "the schema does not mark it as governed; all_fields=True cuts it too"
        return ""

    @property
    def _any_governed(self) -> bool:
        return any(own.governed for own in self.plain.fields)

    @cached_property
    def auc_before(self) -> float | None:
        """AUC of the model as it was given, on the valid split; None without labelled examples."""
        if self.original.labelled is None:
            return None
        value = Scores.of(torch_answers(self.original, "valid", trained=True)).auc
        return None if math.isnan(value) else value

    def auc(self, model: FrozenModel) -> float | None:
        """AUC of a compressed model on the same examples."""
        if self.auc_before is None:
            return None
        return Scores.of(torch_answers(model, "valid", trained=False)).auc

    @cached_property
    def measured(self) -> Measured:
        """Gradients and lookups of the labelled examples; of none where there are none."""
        requests: Iterable[Feed] = ()
        if self.original.labelled is not None:
            requests = (feed for feed, _ in self.original.labelled("valid"))
        self.note(f"gradients of up to {REQUESTS:,} requests")
        return measure(self.plain, requests, REQUESTS)

    @cached_property
    def counts(self) -> dict[Rows, npt.NDArray[np.float64]]:
        """q + 1 of every row: as training saw it, or as the requests did."""
        known = all(group.rows[0] in self.plain.counts for group in self.groups)
        given = self.plain.counts if known else self.measured.seen
        counts = {}
        for group in self.groups:
            path, offset = group.rows
            seen = given.get(path)
            one = np.ones(group.size)
            counts[group.rows] = one if seen is None else one + seen[offset : offset + group.size]
        return counts

    def dense(self, group: _Group) -> npt.NDArray[np.float32]:
        """float32 `[V, D]`: the rows of a group as they were."""
        path, offset = group.rows
        rows: npt.NDArray[np.float32] = self.plain.tables[path].rows[offset : offset + group.size].numpy()
        return rows

    @cached_property
    def scatters(self) -> dict[Rows, Matrix]:
        """C of each group."""
        return {group.rows: covariance(self.dense(group), self.counts[group.rows]) for group in self.groups}

    @cached_property
    def identity(self) -> Readers:
        """What reads rows, whatever the bases are."""
        self.note("what reads the rows")
        rows = {}
        for number, group in enumerate(self.groups):
            D = self.dense(group).shape[1]
            # Not orthonormal: products must not be taken for something that any basis leaves as it is. And each its
            # own: a graph has equal constants once.
            skewed = Basis(np.eye(D), np.diag(np.linspace(1, 2 + number, D)), np.ones(D), np.ones(D))
            rows[group.rows] = CodedRows(skewed, self.dense(group))
        return Readers(coded_model(self.plain, rows, self.whole))

    @cached_property
    def whole(self) -> dict[Rows, Dims]:
        """All dims of every row, 0 for padding."""
        dims = {}
        for group in self.groups:
            V, D = self.dense(group).shape
            dims[group.rows] = np.full(V, D, np.int64)
            if group.padding is not None and not self.dense(group)[group.padding].any():
                dims[group.rows][group.padding] = 0
        return dims

    @cached_property
    def metrics(self) -> dict[Rows, tuple[MetricKind, Matrix]]:
        """G of each group and what it comes from: requests where there are any, else the layers that read it."""
        of_layers = {} if self.measured.requests else self.identity.layer_metrics()
        metrics: dict[Rows, tuple[MetricKind, Matrix]] = {}
        projected = self.identity.projected()
        for group in self.groups:
            seen = self.measured.metric(group.rows)
            if seen is not None and 0 < np.trace(seen) < math.inf:
                metrics[group.rows] = "gradients", seen
            elif group.rows in of_layers and group.rows not in projected:
                metrics[group.rows] = "weights", of_layers[group.rows]
        scale = float(np.mean([np.trace(own) / len(own) for _, own in metrics.values()])) if metrics else 1.0
        for group in self.groups:
            D = self.dense(group).shape[1]
            metrics.setdefault(group.rows, ("none", scale * np.eye(D)))
        return metrics

    def kinds(self) -> list[BasisKind]:
        """The ways to place bases that make a difference here."""
        if not self.identity.projected():
            return ["folded"]
        shared = self._readers_of_shared()
        return ["projection", "shared"] if shared is not None and not shared.projected() else ["projection"]

    def _readers_of_shared(self) -> Readers | None:
        widths = {self.dense(group).shape[1] for group in self.groups}
        return Readers(coded_model(self.plain, self.coded("shared"), self._all_rows())) if len(widths) == 1 else None

    def coded(self, kind: BasisKind) -> dict[Rows, CodedRows]:
        """The rows of each group in its basis; of a shared one, of every other field of these tables as well."""
        if kind != "shared":
            bases = {
                group.rows: principal_basis(self.scatters[group.rows], self.metrics[group.rows][1])
                for group in self.groups
            }
            return {group.rows: self._coded(bases[group.rows], self.dense(group)) for group in self.groups}
        found = shared_basis(
            [self.scatters[group.rows] for group in self.groups], [self.metrics[group.rows][1] for group in self.groups]
        )
        rows = {group.rows: self._coded(own, self.dense(group)) for group, own in zip(self.groups, found, strict=True)}
        for other, numbers in self._others():
            rows[other] = self._coded(found[0], numbers)
        return rows

    def _coded(self, basis: Basis, numbers: npt.NDArray[np.float32]) -> CodedRows:
        return CodedRows(basis, rows_in(basis, numbers))

    def _others(self) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
        """Fields that are not cut, of tables that have one that is."""
        cut = {group.rows for group in self.groups}
        paths = {path for path, _ in cut}
        for own in self.plain.fields:
            rows = own.table, own.offset
            if own.table in paths and rows not in cut:
                cut.add(rows)
                yield rows, self.plain.tables[own.table].rows[own.offset : own.offset + own.size].numpy()

    def _all_rows(self) -> dict[Rows, Dims]:
        return self.whole | {rows: self._uncut(rows, len(numbers)) for rows, numbers in self._others()}

    def _uncut(self, rows: Rows, size: int) -> Dims:
        dims: Dims = self.plain.tables[rows[0]].dims[rows[1] : rows[1] + size].numpy()
        return np.where(dims > 0, self.plain.tables[rows[0]].rows.shape[1], 0)


@dataclass(frozen=True)
class _Found:
    """The best cut of one way to place the bases."""

    kind: BasisKind
    model: FrozenModel
    rows: Mapping[Rows, CodedRows]
    dims: Mapping[Rows, Dims]
    point: Point
    projected: set[Rows]
    projection_bytes: int
    multiply_adds: int
    moved: float
    curve: list[Point]


class _Cuts:
    """Cuts of a model whose bases are placed in one way, each tried once."""

    def __init__(self, work: _Work, kind: BasisKind) -> None:
        self.work, self.kind = work, kind
        self.rows = work.coded(kind)
        self.fields = [self._cut_rows(group) for group in work.groups]
        self.readers = Readers(coded_model(work.plain, self.rows, work._all_rows()))
        self.tried: list[tuple[Point, dict[Rows, Dims], FrozenModel]] = []

    def _cut_rows(self, group: _Group) -> CutRows:
        own = self.rows[group.rows]
        return CutRows(own.numbers, self.work.counts[group.rows], own.basis.weights, self.work.whole[group.rows])

    @property
    def numbers(self) -> int:
        """Of all rows that are cut."""
        return sum(int(own.longest.sum()) for own in self.fields)

    def moved(self) -> float:
        """How far scores move by the change of bases alone, over the examples at hand.

        Raises:
            ValidationFailed: further than by roundings.
        """
        whole = coded_model(self.work.plain, self.rows, self.work._all_rows())
        largest, most = 0.0, 0.0
        for feed in islice(_feeds(self.work.original), 0, _COMPARED // 64):
            before, after = (model.answers(feed)[model.score] for model in (self.work.plain, whole))
            finite = np.isfinite(before)
            largest = max(largest, float(np.abs(np.asarray(before - after)[finite]).max(initial=0.0)))
            most = max(most, float(np.abs(before[finite]).max(initial=0.0)))
        if not largest <= _ROUNDING * max(most, 1.0):
            raise ValidationFailed(
                "compress: another basis alone changes the answers", found=largest, allowed=_ROUNDING * max(most, 1.0)
            )
        return largest

    def attempt(self, dims: Sequence[Dims]) -> Point:
        """Cut, and see what it costs."""
        chosen = dict(zip((group.rows for group in self.work.groups), dims, strict=True))
        model = coded_model(self.work.plain, self.rows, self.work._all_rows() | chosen)
        ratio = sum(int(own.sum()) for own in dims) / self.numbers
        size = table_bytes(model) + self._projection_bytes(model)
        point = Point(self.kind, ratio, size, self.work.auc(model))
        self.tried.append((point, chosen, model))
        auc = "" if point.auc_valid is None else f", valid AUC {point.auc_valid:.5f}"
        self.work.note(f"{self.kind}: mean dims {ratio:.3f} D, {size:,} bytes{auc}")
        return point

    def _projection_bytes(self, model: FrozenModel) -> int:
        """Of bases that stay, as narrow as the cut leaves them."""
        projected = {path for path, _ in self.readers.projected()}
        return sum(4 * table.bases.numel() for path, table in model.coded.items() if path in projected)


def _not_finite(rows: npt.NDArray[np.float32]) -> str:
    """Which row holds NaN or infinity; empty if none does."""
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    return f"row {wrong[0]} holds NaN or infinity" if len(wrong) else ""


def table_bytes(model: FrozenModel) -> int:
    """Bytes of all tables in the smaller of the ragged and the dense layout, in fp32."""
    total = 0
    for table in model.tables.values():
        V, D = table.rows.shape
        total += min(ragged_bytes(table.dims.numpy(), D), dense_bytes(V, D)) if D >= NARROW else dense_bytes(V, D)
    return total


def _feeds(frozen: FrozenModel) -> Iterator[Feed]:
    """Requests to compare answers on: labelled examples, or the example."""
    if frozen.labelled is None:
        yield frozen.example
        return
    rows = 0
    for feed, labels in frozen.labelled("valid"):
        yield feed
        rows += len(labels)
        if rows >= _COMPARED:
            return


def _search(work: _Work, kind: BasisKind, dim_budget: float | None, drop: float | None) -> _Found:
    """The best cut for one way to place the bases."""
    cuts = _Cuts(work, kind)
    moved = cuts.moved()
    if dim_budget is not None:
        try:
            taken = cuts.attempt(dims_within(cuts.fields, int(dim_budget * cuts.numbers + 1e-9)))
        except ValueError as error:
            raise InputError("compress: the dim budget", found=dim_budget, allowed=error, fix="a larger one") from None
    else:
        assert drop is not None
        taken = _largest_cut(cuts, drop)
    if work.auc_before is not None:
        least = sum(int((own.longest > 0).sum()) for own in cuts.fields)
        for ratio in _BUDGETS:
            near = any(abs(point.avg_dim_ratio - ratio) < ratio / 20 for point, _, _ in cuts.tried)
            if ratio * cuts.numbers >= least and not near:
                cuts.attempt(dims_within(cuts.fields, int(ratio * cuts.numbers)))
    _, dims, model = next(own for own in cuts.tried if own[0] is taken)
    curve = [replace(point, chosen=point is taken) for point, _, _ in cuts.tried]
    curve.sort(key=lambda point: point.bytes)
    projection = taken.bytes - table_bytes(model)
    projected, multiply_adds = cuts.readers.projected(), cuts.readers.multiply_adds()
    return _Found(kind, model, cuts.rows, dims, taken, projected, projection, multiply_adds, moved, curve)


def _largest_cut(cuts: _Cuts, drop: float) -> Point:
    """The fewest dims that cost at most `drop`, by bisection on the price of a number."""
    before = cuts.work.auc_before
    assert before is not None
    low, high = price_range(cuts.fields)
    best = cuts.attempt([own.longest for own in cuts.fields])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        point = cuts.attempt(dims_at(cuts.fields, float(np.exp(middle))))
        allowed = point.auc_valid is not None and before - point.auc_valid <= drop
        low, high = (middle, high) if allowed else (low, middle)
        best = point if allowed and point.bytes <= best.bytes else best
    return best


def _best(found: Sequence[_Found], before: float | None, drop: float | None) -> _Found:
    """The smallest that an AUC drop allows; at given dims the better one, the smaller if neither is by 1e-4."""
    if before is None or len(found) == 1:
        return found[0]
    if drop is not None:
        kept = [own for own in found if own.point.auc_valid is not None and before - own.point.auc_valid <= drop]
        return min(kept or found, key=lambda own: own.point.bytes)
    best = max(own.point.auc_valid or 0.0 for own in found)
    near = [own for own in found if (own.point.auc_valid or 0.0) >= best - DEFAULT_DROP]
    return min(near, key=lambda own: own.point.bytes)


def _report(
    work: _Work, found: Sequence[_Found], best: _Found, dim_budget: float | None, drop: float | None
) -> CompressReport:
    fields = {}
    for group in work.groups:
        rows, dims, whole = best.rows[group.rows], best.dims[group.rows], work.whole[group.rows]
        kind: BasisKind = best.kind if group.rows in best.projected else "folded"
        if best.kind == "shared":
            kind = "shared"
        energies = np.cumsum(rows.basis.energies)
        D = rows.numbers.shape[1]
        fields[group.name] = FieldOrder(
            dim=D,
            rows=group.size,
            avg_dim_before=_mean_dims(work.plain, group, whole),
            avg_dim=float(dims[dims > 0].mean()) if (dims > 0).any() else 0.0,
            longest=int(dims.max(initial=0)),
            effective_rank=rows.basis.effective_rank,
            energy=(energies / energies[-1]).tolist() if energies[-1] > 0 else [1.0] * D,
            basis=kind,
            metric=work.metrics[group.rows][0],
            bytes_before=4 * D * group.size,
            bytes_after=4 * int(dims.sum()),
        )
    return CompressReport(
        fields=fields,
        left=work.left,
        requests=work.measured.requests,
        avg_dim_ratio=best.point.avg_dim_ratio,
        bytes_before=work.original.dense_bytes,
        bytes_after=best.point.bytes,
        auc_valid_before=work.auc_before,
        auc_valid_after=best.point.auc_valid,
        max_auc_drop=drop,
        dim_budget=dim_budget,
        max_abs_logit_diff_before_cut=best.moved,
        placements=[
            Placement(
                own.kind,
                own.point.avg_dim_ratio,
                own.point.bytes,
                own.projection_bytes,
                own.multiply_adds,
                own.point.auc_valid,
                own is best,
            )
            for own in found
        ],
        curve=best.curve,
    )


def _mean_dims(frozen: FrozenModel, group: _Group, whole: Dims) -> float:
    path, offset = group.rows
    dims = frozen.tables[path].dims[offset : offset + group.size].numpy()[whole > 0]
    return float(dims.mean()) if len(dims) else 0.0
