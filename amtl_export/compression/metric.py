"""What an error in a row does to the answer: G = E[g gᵀ], from gradients over a sample of requests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.principal.basis import Matrix
from amtl_export.scratch import scratch
from amtl_export.spec import Feed

#: Probabilities are kept this far from 0 and 1 before their logit is taken.
_EDGE = 1e-6

#: A field's rows: path of its table, and the first of them.
Rows = tuple[str, int]


@dataclass
class Measured:
    """What requests tell of the fields' rows.

    Attributes:
        requests: examples seen.
        gradients: sum of g gᵀ over lookups, float64 `[D, D]`, of each field's rows.
        lookups: how many there were.
        seen: table → int32 `[V]`, how often each row was looked up.
    """

    requests: int = 0
    gradients: dict[Rows, Matrix] = field(default_factory=dict)
    lookups: dict[Rows, int] = field(default_factory=dict)
    seen: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    def metric(self, rows: Rows) -> Matrix | None:
        """G of a field's rows; None where no request looked any up."""
        return self.gradients[rows] / self.lookups[rows] if self.lookups.get(rows) else None


def measure(frozen: FrozenModel, requests: Iterable[Feed], most: int) -> Measured:
    """Look at gradients and lookups of requests.

    g is the gradient of the logit in a row that was looked up; of a probability, its logit's. Where a model gives
    several outputs, each counts, in units of its spread over the first batch that has one; of one with several numbers
    an example, a sum with random signs. One number for the whole batch, such as a loss, counts where there is nothing
    else. What the model keeps of a call is kept by a copy.

    Args:
        frozen: the model.
        requests: inputs of real requests.
        most: examples to look at.
    """
    measured, signs = Measured(), torch.Generator().manual_seed(0)
    spreads: dict[str, float] = {}
    shared = [*frozen.tables.values(), *frozen.module.parameters()]
    frozen = frozen.with_model(copy.deepcopy(frozen.module.model, {id(own): own for own in shared}))
    with _recording(frozen.tables) as recorded, torch.enable_grad():
        for feed in requests:
            if measured.requests >= most:
                break
            recorded.clear()
            tensors = [torch.from_numpy(np.array(feed[spec.name])) for spec in frozen.inputs]
            answers = dict(zip(frozen.outputs, frozen.module(*tensors), strict=True))
            _add(measured, frozen, recorded, list(_targets(frozen, answers, spreads, signs)))
            measured.requests += next((len(answer) for answer in answers.values() if answer.ndim), 1)
    return measured


@dataclass(frozen=True)
class _Lookup:
    """Rows `[…, K, D]` that were looked up, as a leaf; the ids, and the fields of their columns."""

    path: str
    table: FrozenEmbedding
    rows: Tensor
    ids: Tensor
    fields: tuple[int, ...]


@contextmanager
def _recording(tables: dict[str, FrozenEmbedding]) -> Iterator[list[_Lookup]]:
    """What is looked up inside the block."""
    recorded: list[_Lookup] = []

    def tap(path: str, table: FrozenEmbedding) -> Callable[[Tensor, Tensor, Sequence[int]], Tensor]:
        def seen(rows: Tensor, ids: Tensor, fields: Sequence[int]) -> Tensor:
            leaf = rows.detach().requires_grad_()
            recorded.append(_Lookup(path, table, leaf, ids.detach(), tuple(fields)))
            return leaf.clone()  # a model may change what it looked up

        return seen

    for path, table in tables.items():
        table.tap = tap(path, table)
    try:
        yield recorded
    finally:
        for table in tables.values():
            table.tap = None


def _targets(
    frozen: FrozenModel, answers: dict[str, Tensor], spreads: dict[str, float], signs: torch.Generator
) -> Iterator[Tensor]:
    """A number for each output whose gradient in a row is g, summed over examples."""
    names = list(frozen.scores if frozen.data is not None else frozen.outputs)
    floats = {own: answers[own] for own in names if answers[own].is_floating_point() and answers[own].requires_grad}
    floats = {name: values for name, values in floats.items() if values.ndim} or floats
    for name, values in floats.items():
        known = values.detach()
        if known.numel() and 0 <= float(known.min()) <= float(known.max()) <= 1:
            values = torch.logit(values.clamp(_EDGE, 1 - _EDGE))
        scale = 1.0 if len(floats) == 1 else _spread(name, values, spreads)
        flat = values.flatten(1) if values.ndim > 1 else values.reshape(-1, 1)
        sign = torch.randint(0, 2, flat.shape[1:], generator=signs) * 2.0 - 1
        yield (flat * (sign if flat.shape[1] > 1 else 1.0)).sum() / scale


def _spread(name: str, values: Tensor, spreads: dict[str, float]) -> float:
    """Standard deviation of an output, as first seen; 1 until then: a single example, or a constant, has none."""
    if name not in spreads:
        seen = float(values.detach().double().std()) if values.numel() > 1 else 0.0
        if not seen > 0:
            return 1.0
        spreads[name] = seen
    return spreads[name]


def _add(measured: Measured, frozen: FrozenModel, lookups: list[_Lookup], targets: list[Tensor]) -> None:
    padding = {(own.table, own.offset): own.padding for own in frozen.fields if own.padding is not None}
    leaves = [own.rows for own in lookups]
    for number, target in enumerate(targets):
        gradients = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        for own, gradient in zip(lookups, gradients, strict=True):
            known = torch.zeros_like(own.rows) if gradient is None else gradient
            _add_lookup(measured, own, known, padding, count=number == 0)


def _add_lookup(measured: Measured, own: _Lookup, gradient: Tensor, padding: dict[Rows, int], *, count: bool) -> None:
    D = gradient.shape[-1]
    columns: list[tuple[int, Any]] = [(own.fields[0], ...)]
    if len(own.fields) > 1:
        columns = [(f, (..., c)) for c, f in enumerate(own.fields)]
    for position, where in columns:
        size, offset = own.table.sizes[position], own.table.offsets[position]
        ids = own.ids[where].flatten()
        g = (gradient if where is ... else gradient[(*where, slice(None))]).reshape(-1, D)
        ids = torch.where((ids >= 0) & (ids < size), ids, 0)
        real = ids != padding.get((own.path, offset), -1)
        g = g[real].double()
        rows = own.path, offset
        measured.gradients[rows] = measured.gradients.get(rows, 0.0) + (g.T @ g).numpy()
        if count:
            measured.lookups[rows] = measured.lookups.get(rows, 0) + len(g)
            if own.path not in measured.seen:
                measured.seen[own.path] = scratch((len(own.table.dims),), np.int32)
            places, times = np.unique((ids[real] + offset).numpy(), return_counts=True)
            measured.seen[own.path][places] += times
