"""The best cut: to a budget, or the smallest file that an AUC drop allows, over value types and ways to place bases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from amtl_export.compression.cuts import Attempt, Cuts
from amtl_export.compression.metric import Rows
from amtl_export.compression.readers import Readers
from amtl_export.compression.report import BasisKind, Point
from amtl_export.compression.uncut import Uncut
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.principal.basis import Basis
from amtl_export.principal.dims import Dims, price_range
from amtl_export.tables.values import ValueType

#: Halvings of the price in the search for the largest cut that an AUC drop allows, and budgets of the curve beside it.
_HALVINGS, _BUDGETS = 10, (0.02, 0.05, 0.1, 0.2, 0.4)

#: Of another value type the price is looked for near that of the first: how far below (in its logarithm), how often.
_BELOW, _HALVINGS_NEAR = 3.0, 4

#: Allowed AUC drop if neither that nor a budget is given.
DEFAULT_DROP = 1e-4


@dataclass(frozen=True)
class BestCut:
    """The best cut of one way to place the bases."""

    kind: BasisKind
    model: FrozenModel
    bases: Mapping[Rows, Basis]
    dims: Mapping[Rows, Dims]
    point: Point
    projected: set[Rows]
    projection_bytes: int
    multiply_adds: int
    moved: float
    curve: list[Point]


def best_cut(
    work: Uncut, kind: BasisKind, dim_budget: float | None, drop: float | None, dtypes: Sequence[ValueType]
) -> BestCut:
    """The best cut for one way to place the bases."""
    cuts = Cuts(work, kind)
    moved = cuts.moved()
    if dim_budget is not None:
        try:
            taken = cuts.narrowest(dim_budget, dtypes[0])
        except ValueError as error:
            raise InputError("compress: the dim budget", found=dim_budget, allowed=error, fix="a larger one") from None
    else:
        assert drop is not None
        taken = _smallest(cuts, drop, dtypes)
    if work.curve and work.auc_before is not None:
        _add_curve(cuts)
    model = cuts.model(taken.dims)
    readers = Readers(model)
    point, projection_bytes = replace(taken.point, chosen=True), taken.projection_bytes
    if kind == "projection" and not readers.projected():  # rows as narrow as these are folded after all
        kind = "folded"
        point, projection_bytes = replace(point, basis=kind, bytes=point.bytes - projection_bytes), 0
    curve = [point if own is taken.point else own for own in cuts.tried]
    curve.sort(key=lambda own: own.bytes)
    return BestCut(
        kind,
        model,
        cuts.coded.bases,
        taken.dims,
        point,
        readers.projected(),
        projection_bytes,
        readers.multiply_adds(),
        moved,
        curve,
    )


def _add_curve(cuts: Cuts) -> None:
    """Cuts in fp32 at some budgets, where none was tried near them."""
    least = sum(int((own.longest > 0).sum()) for own in cuts.fields)
    for ratio in _BUDGETS:
        tried = [point.avg_dim_ratio for point in cuts.tried if point.dtype == "fp32"]
        if ratio * cuts.numbers >= least and not any(abs(known - ratio) < ratio / 4 for known in tried):
            cuts.attempt(cuts.within(ratio))


def _smallest(cuts: Cuts, drop: float, dtypes: Sequence[ValueType]) -> Attempt:
    """The fewest bytes that cost at most `drop`, over value types."""
    first, price = _largest_cut(cuts, drop, dtypes[0], price_range(cuts.fields), _HALVINGS)
    best = first
    for dtype in dtypes[1:]:
        near = (price - _BELOW, price)
        try:
            found, _ = _largest_cut(cuts, drop, dtype, near, _HALVINGS_NEAR)
        except InputError:  # a number is too large for the type
            continue
        if cuts.allowed(found.point, drop) and found.point.bytes < best.point.bytes:
            best = found
    return best


def _largest_cut(
    cuts: Cuts, drop: float, dtype: ValueType, prices: tuple[float, float], halvings: int
) -> tuple[Attempt, float]:
    """The fewest dims that cost at most `drop`, by bisection on the logarithm of the price of a number.

    A first try at the upper end may be enough; where nothing is allowed, the rows are whole.
    """
    low, high = prices
    best, price = cuts.attempt([own.longest for own in cuts.fields], dtype), low
    for number in range(halvings if cuts.allowed(best.point, drop) else 0):
        middle = high if number == 0 and halvings == _HALVINGS_NEAR else (low + high) / 2
        found = cuts.attempt(cuts.at(float(np.exp(middle))), dtype)
        if cuts.allowed(found.point, drop):
            low = middle
            best, price = (found, middle) if found.point.bytes <= best.point.bytes else (best, price)
            if middle == high:
                break
        else:
            high = middle
    return best, price


def smallest(found: Sequence[BestCut], before: float | None, drop: float | None) -> BestCut:
    """The smallest that an AUC drop allows; at given dims the better one, the smaller if neither is by 1e-4.

    Raises:
        InputError: whole rows in another basis, in the value type asked for, cost more AUC than that.
    """
    if before is None:
        return min(found, key=_bytes)
    drops = {cut.kind: before - (cut.point.auc_valid or 0.0) for cut in found}
    if drop is not None:
        kept = [cut for cut in found if drops[cut.kind] <= drop]
        if not kept:
            raise InputError(
                "compress: nothing costs as little AUC",
                found=f"{min(drops.values()):.3g} with whole rows",
                allowed=drop,
                fix="a larger max_auc_drop, dtype='auto', or dim_budget",
            )
        return min(kept, key=_bytes)
    near = [cut for cut in found if drops[cut.kind] <= min(drops.values()) + DEFAULT_DROP]
    return min(near, key=_bytes)


def _bytes(cut: BestCut) -> float:
    """What a cut is chosen by: of bases that are folded away a little more is allowed, since rows are narrower then."""
    return cut.point.bytes * (0.95 if cut.kind == "folded" else 1.0)
