"""Dims of every id by damage against bytes, for all fields at once.

For a price λ of a number, each row keeps the k that minimises

    damage(k) + λ · k,   damage(k) = q · (sum of weights_j · z_j² over j >= k),   k from 1 to the row's length

which is the lower convex hull of its curve. One λ for all rows is the optimum for some total; a total is met by
bisection on λ: on every nth row first where there are many, then on all of them near what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Integers `[V]`, 0..D.
Dims = npt.NDArray[np.integer[Any]]

#: Numbers that are worked on at a time: they stay in a processor's cache.
_NUMBERS = 1 << 16

#: About so many rows a price is looked for on first, where there are twice as many and more.
_MANY = 1 << 18

#: How far from it that of all rows is looked for first, in its logarithm; how often; how near a total is met.
_NEAR, _TRIES, _MET = 0.02, 24, 1 - 1e-5

#: Halvings of λ's range, each in its logarithm: 300 orders of magnitude to a part in a thousand.
_HALVINGS = 26


@dataclass(frozen=True)
class Rows:
    """Rows of one field that are to be cut.

    Attributes:
        numbers: float32 `[V, D]`, z.
        counts: floats `[V]`, q.
        weights: float64 `[D]`, of the basis.
        longest: integers `[V]`, dims that a row may have at most; 0 for a padding row. Dims have the same type.
    """

    numbers: npt.NDArray[np.float32]
    counts: npt.NDArray[np.floating[Any]]
    weights: npt.NDArray[np.float64]
    longest: Dims

    def energies(self) -> Iterator[npt.NDArray[Any]]:
        """q · weights_j · z_j², block by block, float64 `[n, D]`."""
        step = max(1, _NUMBERS // max(1, self.numbers.shape[1]))
        for start in range(0, len(self.numbers), step):
            energy = self.numbers[start : start + step].astype(np.float64)
            np.square(energy, out=energy)
            energy *= self.weights
            energy *= self.counts[start : start + step, None]
            yield energy

    def every(self, step: int) -> Rows:
        """Every nth row."""
        return Rows(self.numbers[::step], self.counts[::step], self.weights, self.longest[::step])


def dims_at(fields: Sequence[Rows], price: float) -> list[Dims]:
    """Dims of every row of each field for a price of one number; 1 to `longest`, 0 for padding."""
    return [_cut(field, price) for field in fields]


def _cut(field: Rows, price: float) -> Dims:
    dims, begin = np.empty_like(field.longest), 0
    k = np.arange(1, field.numbers.shape[1] + 1)
    for cost in field.energies():
        part = slice(begin, begin + len(cost))
        longest, begin = field.longest[part], part.stop
        # Up to a constant of the row: what cutting at k does, less what the numbers before it are worth.
        np.cumsum(cost, axis=1, out=cost)
        np.subtract(price * k, cost, out=cost)
        if len(longest) and longest.min() < len(k):
            cost[k > np.maximum(longest, 1)[:, None]] = np.inf
        dims[part] = np.minimum(cost.argmin(axis=1) + 1, longest)
    return dims


def dims_within(fields: Sequence[Rows], most: int) -> list[Dims]:
    """The dims of least damage whose sum is at most `most`.

    Raises:
        ValueError: one dim a row is already more than that.
    """
    least = sum(int((field.longest > 0).sum()) for field in fields)
    if least > most:
        raise ValueError(f"one dim for each of {least} rows is more than {most} numbers")
    if _total(field.longest for field in fields) <= most:
        return [field.longest.copy() for field in fields]
    step = sum(len(field.numbers) for field in fields) // _MANY
    if step > 1:
        part = [field.every(step) for field in fields]
        share = _total(own.longest for own in part) / _total(own.longest for own in fields)
        price = least_price(part, lambda dims: _total(dims) <= most * share)
        if (found := _near(fields, most, float(np.log(price)))) is not None:
            return found
    return dims_at(fields, least_price(fields, lambda dims: _total(dims) <= most))


def _total(dims: Iterable[Dims]) -> int:
    return sum(int(own.sum()) for own in dims)


def _near(fields: Sequence[Rows], most: int, price: float) -> list[Dims] | None:
    """Dims for a price near one, in its logarithm, whose sum is hardly less than `most`; None if none is found."""
    best, best_total, step = None, 0, _NEAR
    low: tuple[float, int] | None = None  # a price, and its total, which is too much
    high: tuple[float, int] | None = None
    for number in range(_TRIES):
        dims = dims_at(fields, float(np.exp(price)))
        tried = price, _total(dims)
        if tried[1] > most:
            low = tried
        else:
            high = tried
            best, best_total = (dims, tried[1]) if tried[1] >= best_total else (best, best_total)
            if tried[1] >= most * _MET:
                break
        if low is not None and high is not None:
            share = (low[1] - most) / (low[1] - high[1]) if number % 3 else 0.5
            price = low[0] + (high[0] - low[0]) * min(max(share, 0.05), 0.95)
        else:
            price, step = price + (step if high is None else -step), 4 * step
    return best


def damages(fields: Sequence[Rows], dims: Sequence[Dims]) -> npt.NDArray[np.float64]:
    """Damage of cutting each field at some dims, and earlier: `[fields, D + 1]`.

    Number w is the damage where no row keeps more than w numbers, the last one that of the dims themselves.
    """
    width = max((field.numbers.shape[1] for field in fields), default=0)
    total = np.zeros((len(fields), width + 1))
    for own, field, kept in zip(total, fields, dims, strict=True):
        begin, D = 0, field.numbers.shape[1]
        for energy in field.energies():
            here = kept[begin : begin + len(energy), None] > np.arange(D)
            begin += len(energy)
            lost, worth = float(energy[~here].sum()), np.where(here, energy, 0.0).sum(axis=0)
            own[: D + 1] += lost + np.append(worth[::-1].cumsum()[::-1], 0.0)
        own[D + 1 :] = own[D]
    return total


def narrowed(fields: Sequence[Rows], dims: Sequence[Dims], tables: Sequence[str | None], more: float) -> list[Dims]:
    """Dims that end earlier, at one width for the rows of each table, where that does hardly more damage.

    A table as narrow as that needs no layout of its own on a runtime without the native operators: it is read by one
    Gather, and the layer behind it is narrower too.

    Args:
        fields: that are cut.
        dims: of their rows.
        tables: the table of each field; None of one whose rows stay as long as they are.
        more: damage that may be added, as a part of what the dims do; each table adds an equal part at most.
    """
    found = damages(fields, dims)
    allowed = more * float(found[:, -1].sum()) / max(len(set(tables)), 1)
    cut = []
    for field, kept, table in zip(fields, dims, tables, strict=True):
        if table is None:
            cut.append(kept)
            continue
        own = found[[name == table for name in tables]].sum(axis=0)
        width = max(1, int(np.flatnonzero(own - own[-1] <= allowed)[0]))
        cut.append(np.minimum(kept, min(width, field.numbers.shape[1])))
    return cut


def least_price(fields: Sequence[Rows], allowed: Callable[[list[Dims]], bool], halvings: int = _HALVINGS) -> float:
    """The least price whose dims are allowed, to a part in a thousand; fewer dims are always allowed if more are.

    Args:
        fields: to cut.
        allowed: whether dims are.
        halvings: of the price's range, in its logarithm.
    """
    low, high = price_range(fields)
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if allowed(dims_at(fields, np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def price_range(fields: Sequence[Rows]) -> tuple[float, float]:
    """Logarithms of a price at which hardly anything is cut, and of one at which each row keeps one dim."""
    largest, least = 0.0, np.inf
    for field in fields:
        for energy in field.energies():
            largest = max(largest, float(energy.sum(axis=1).max(initial=0.0)))
            least = min(least, float(energy[energy > 0].min(initial=np.inf)))
    if largest == 0:
        return -1.0, 0.0
    return float(np.log(least)) - 1, float(np.log(largest)) + 1
