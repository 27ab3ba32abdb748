"""A model before it is cut: what can be cut, what an error in a row costs, what reads the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from amtl_export.compression.coding import Coded, whole_model
from amtl_export.compression.metric import Measured, Rows, measure
from amtl_export.compression.readers import Readers
from amtl_export.compression.report import BasisKind, MetricKind
from amtl_export.errors import InputError
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.reads import indexed
from amtl_export.freezing.scores import torch_auc
from amtl_export.freezing.swap import passed_over
from amtl_export.principal.basis import Basis, Matrix, covariance, principal_basis, rows_in, shared_basis
from amtl_export.principal.dims import Dims
from amtl_export.scratch import scratch
from amtl_export.spec import Feed
from amtl_export.stages import stage
from amtl_export.tables.values import (
    NARROW,
)

#: Examples whose gradients are looked at.
REQUESTS = 16_384

Note = Callable[[str], None]


@dataclass(frozen=True)
class RowGroup:
    """Rows of a table that one or more fields read."""

    rows: Rows
    name: str
    size: int
    padding: int | None


@dataclass
class Uncut:
    """One model being compressed.

    Attributes:
        original: as it was given.
        plain: the same with one row of D numbers for each id.
        all_fields: whether fields that are not governed are cut too.
        curve: whether some budgets more are measured.
        note: is told how it goes.
    """

    original: FrozenModel
    plain: FrozenModel
    all_fields: bool
    curve: bool
    note: Note
    left: dict[str, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[RowGroup]:
        """What is cut; what is not is noted in `left`."""
        if self.original.data is None:
            self.left.update(self._no_tables())
        readers: dict[Rows, list[FieldRows]] = {}
        for field_rows in self.plain.fields:
            readers.setdefault((field_rows.table, field_rows.offset), []).append(field_rows)
        return [group for rows, fields in readers.items() if (group := self._group(rows, fields))]

    def _no_tables(self) -> dict[str, str]:
        """What ids are looked up in beside tables → why it is none."""
        model = self.original.module.model
        kept = passed_over((self.original.trained or self.original.module).model)
        return indexed(model, lambda: self.original.answers(self.original.example)) | kept

    def _group(self, rows: Rows, fields: Sequence[FieldRows]) -> RowGroup | None:
        """Rows that some fields read, cut if one of these is; None where none is."""
        reasons = {one.name: self._reason(one) for one in fields}
        if all(reasons.values()):
            self.left.update(reasons)
            return None
        name = next(name for name, reason in reasons.items() if not reason)
        padding = next((one.padding for one in fields if one.padding is not None), None)
        return RowGroup(rows, name, fields[0].size, padding)

    def _reason(self, own: FieldRows) -> str:
        """Why a field is left as it is; empty if it is not."""
        if own.table not in self.plain.tables:
            return "the model does not read it"
        if own.table in self.plain.read_whole:
            return "the model reads the whole table: table.weight, not table(ids)"
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
    def aucs_before(self) -> dict[str, float]:
        """AUC of the model as it was given, on the valid split, by output that labels judge; empty without labels."""
        if self.original.labelled is None:
            return {}
        stage("scoring the valid split")
        values = torch_auc(self.original, "valid", trained=True)
        return {} if any(map(math.isnan, values.values())) else values

    def check_steady(self) -> None:
        """Refuse labelled examples that are others each time: AUC would tell of them, and not of a cut.

        Raises:
            InputError: the same model's AUC is another one.
        """
        if self.original.data is not None or not self.aucs_before:
            return
        again = torch_auc(self.original, "valid", trained=True)
        for name, auc in self.aucs_before.items():
            if not math.isclose(auc, again[name], abs_tol=1e-9):  # an order of their own is fine
                raise InputError(
                    "the batches are not the same when they are gone through again",
                    found=f"an AUC of {auc:.6f}, and then of {again[name]:.6f}, of the model before it is cut",
                    fix="draw examples with a seed that is set each time, or give list(batches)",
                )

    @property
    def auc_before(self) -> float | None:
        """The main one of these; None without labelled examples."""
        return self.aucs_before.get(self.original.score)

    def aucs(self, model: FrozenModel) -> dict[str, float]:
        """AUC of a compressed model on the same examples, likewise."""
        return torch_auc(model, "valid", trained=False) if self.aucs_before else {}

    def judged(self, aucs: Mapping[str, float]) -> float | None:
        """What a cut is judged by: `auc_before`, less what the output loses whose AUC falls most."""
        if self.auc_before is None:
            return None
        return min(auc + (self.auc_before - self.aucs_before[name]) for name, auc in aucs.items())

    @cached_property
    def measured(self) -> Measured:
        """Gradients and lookups of the labelled examples; of none where there are none."""
        requests: Iterable[Feed] = ()
        if self.original.labelled is not None:
            requests = (feed for feed, _ in self.original.labelled("valid"))
            self.note(f"gradients of up to {REQUESTS:,} requests")
            stage("taking gradients")
        return measure(self.plain, requests, REQUESTS)

    @cached_property
    def counts(self) -> dict[Rows, npt.NDArray[np.float32]]:
        """q + 1 of every row, float32 `[V]`: as training saw it, or as the requests did."""
        known = all(group.rows[0] in self.plain.counts for group in self.groups)
        given = self.plain.counts if known else self.measured.seen
        counts = {}
        for group in self.groups:
            path, offset = group.rows
            seen = given.get(path)
            counts[group.rows] = scratch((group.size,))
            counts[group.rows] += 1
            if seen is not None:
                counts[group.rows] += seen[offset : offset + group.size]
        return counts

    def dense(self, group: RowGroup) -> npt.NDArray[np.float32]:
        """float32 `[V, D]`: the rows of a group as they were."""
        path, offset = group.rows
        rows: npt.NDArray[np.float32] = self.plain.tables[path].rows[offset : offset + group.size].numpy()
        return rows

    @cached_property
    def scatters(self) -> dict[Rows, Matrix]:
        """C of each group."""
        stage("what rows have in common")
        return {group.rows: covariance(self.dense(group), self.counts[group.rows]) for group in self.groups}

    @cached_property
    def identity(self) -> Readers:
        """What reads rows, whatever the bases are."""
        self.note("what reads the rows")
        stage("tracing the model")
        bases = {}
        for number, group in enumerate(self.groups):
            D = self.dense(group).shape[1]
            # Not orthonormal: products must not be taken for something that any basis leaves as it is. And each its
            # own: a graph has equal constants once.
            bases[group.rows] = Basis(np.eye(D), np.diag(np.linspace(1, 2 + number, D)), np.ones(D), np.ones(D))
        tables = {path: self.plain.tables[path].rows.numpy() for path in self._paths}
        return Readers(whole_model(self.plain, Coded(tables, bases)))

    @cached_property
    def whole(self) -> dict[Rows, Dims]:
        """All dims of every row, 0 for padding."""
        dims: dict[Rows, Dims] = {}
        for group in self.groups:
            V, D = self.dense(group).shape
            dims[group.rows] = np.full(V, D, np.uint8 if D < 1 << 8 else np.int32)
            if group.padding is not None and not self.dense(group)[group.padding].any():
                dims[group.rows][group.padding] = 0
        return dims

    @cached_property
    def metrics(self) -> dict[Rows, tuple[MetricKind, Matrix]]:
        """G of each group and what it comes from: requests where there are any, else the layers that read it."""
        of_layers = {} if self.measured.gradients else self.identity.layer_metrics()
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
        return Readers(whole_model(self.plain, self.coded("shared"))) if len(widths) == 1 else None

    @property
    def _paths(self) -> list[str]:
        """The tables that have something to cut."""
        return list(dict.fromkeys(group.rows[0] for group in self.groups))

    def coded(self, kind: BasisKind) -> Coded:
        """The rows of each group in its basis; of a shared one, of every other field of these tables as well."""
        scatters = [self.scatters[group.rows] for group in self.groups]
        metrics = [self.metrics[group.rows][1] for group in self.groups]
        if kind == "shared":
            found = shared_basis(scatters, metrics)
        else:
            found = [principal_basis(C, G) for C, G in zip(scatters, metrics, strict=True)]
        bases = {group.rows: basis for group, basis in zip(self.groups, found, strict=True)}
        tables = {path: scratch(tuple(self.plain.tables[path].rows.shape)) for path in self._paths}
        for group in self.groups:
            self._write(tables, bases[group.rows], group.rows, self.dense(group))
        for other, numbers in self.others():
            if kind == "shared":
                bases[other] = found[0]
            self._write(tables, bases.get(other), other, numbers)
        return Coded(tables, bases)

    def _write(
        self,
        tables: Mapping[str, npt.NDArray[np.float32]],
        basis: Basis | None,
        rows: Rows,
        numbers: npt.NDArray[np.float32],
    ) -> None:
        """Write the rows of a field in a basis, or as they are."""
        out = tables[rows[0]][rows[1] : rows[1] + len(numbers)]
        if basis is None:
            out[:] = numbers
        else:
            rows_in(basis, numbers, out)

    def others(self) -> Iterator[tuple[Rows, npt.NDArray[np.float32]]]:
        """Fields that are not cut, of tables that have one that is."""
        cut = {group.rows for group in self.groups}
        paths = {path for path, _ in cut}
        for own in self.plain.fields:
            rows = own.table, own.offset
            if own.table in paths and rows not in cut:
                cut.add(rows)
                yield rows, self.plain.tables[own.table].rows[own.offset : own.offset + own.size].numpy()


def _not_finite(rows: npt.NDArray[np.float32]) -> str:
    """Which row holds NaN or infinity; empty if none does."""
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    return f"row {wrong[0]} holds NaN or infinity" if len(wrong) else ""
