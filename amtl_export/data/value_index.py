"""Value → position, looked up at a cost that does not grow with how many values are known.

Every value has a 64-bit hash: an integer times an odd constant, a text as Polars hashes it. Hashes lie sorted, and a
directory says where those begin that share their leading bits, about one a bucket. The values of a chunk are looked up
in the order of their hashes, so that memory is read forwards. What a text's hash finds is compared with the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

#: 2^64 over the golden ratio, odd: no two integers have one product, and leading bits spread.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SEED = 0x616D746C

#: Values whose hashes are sorted together, so that a large index is read forwards, and of these as many as the caches
#: hold while they are looked up. Powers of 2.
_BLOCK, _PART = 1 << 18, 1 << 15

Ints = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]


class ValueIndex:
    """Positions of values in a series.

    Args:
        values: String or Int64, each value once, none null; fewer than 2^31.
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values
        self._hashed: _Hashed | None = None

    def positions(self, values: pl.Series) -> Ints:
        """int32 `[n]`: where each value stands in the series; -1 of those that do not, null among them.

        The first call builds what the others read, of 16 to 20 bytes a value.

        Args:
            values: of the type of the series.
        """
        found = np.full(len(values), -1, dtype=np.int32)
        if not len(self.values):
            return found
        self._hashed = self._hashed or _Hashed.of(self.values)
        for start in range(0, len(values), _BLOCK):
            block = values.slice(start, _BLOCK)
            found[start : start + len(block)] = self._hashed.positions(block, self.values)
        return found

    def forget(self) -> None:
        """Free what the first call built; the next one builds it again."""
        self._hashed = None


@dataclass(frozen=True)
class _Hashed:
    """Hashes in order, and where they begin.

    Attributes:
        hashes: `[V + 1]`, rising, and one of no value.
        known: int32 `[V + 1]`, the position of the value of each, and -1.
        begin: int32 `[buckets + 1]`, where each bucket begins in `hashes`.
        shift: what a hash is shifted by to give its bucket.
    """

    hashes: Hashes
    known: Ints
    begin: Ints
    shift: np.uint64

    @classmethod
    def of(cls, values: pl.Series) -> _Hashed:
        hashes = _hashes(values)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        bits = max(len(values).bit_length(), 1)
        shift = np.uint64(64 - bits)
        begin = np.zeros((1 << bits) + 1, dtype=np.int32)
        np.cumsum(np.bincount((hashes >> shift).astype(np.int64), minlength=1 << bits), out=begin[1:])
        return cls(np.append(hashes, np.uint64(0)), np.append(order, -1).astype(np.int32), begin, shift)

    def positions(self, values: pl.Series, all_values: pl.Series) -> Ints:
        hashes = _hashes(values)
        order = _order(hashes)
        places, found = np.empty((2, len(values)), dtype=np.int32)
        for start in range(0, len(order), _PART):
            rows = order[start : start + _PART]
            places[rows] = at = self._places(hashes[rows])
            found[rows] = self.known[at]
        if values.dtype == pl.String:
            todo = _others(values, found, all_values)
            while len(todo):  # the texts of one hash lie side by side
                places[todo] += 1
                more = self.hashes[places[todo]] == hashes[todo]
                found[todo] = np.where(more, self.known[places[todo]], -1)
                todo = todo[_others(values.gather(todo), found[todo], all_values)]
        if values.null_count():
            found[values.is_null().to_numpy()] = -1
        return found

    def _places(self, asked: Hashes) -> Ints:
        """int32 `[n]`: the first of each of these among the hashes, V if it is not there."""
        bucket = (asked >> self.shift).astype(np.int64)
        at, end = self.begin[bucket], self.begin[bucket + 1]
        todo = np.flatnonzero(at < end)
        while len(todo):  # as often as the fullest bucket has hashes
            there, wanted = self.hashes[at[todo]], asked[todo]
            passed = there > wanted
            at[todo[passed]] = end[todo[passed]]
            todo = todo[there < wanted]
            at[todo] += 1
            todo = todo[at[todo] < end[todo]]
        at[at == end] = len(self.known) - 1
        return at


def _order(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Rows by the leading bits of their hashes; at most a block of them, whose numbers fit the other bits."""
    low = np.uint64(_BLOCK - 1)
    keys = (hashes & ~low) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()  # a third of the time of argsort
    return (keys & low).view(np.int64)


def _others(values: pl.Series, found: Ints, all_values: pl.Series) -> npt.NDArray[np.int64]:
    """Which rows have found another text than theirs; those that found none have not."""
    there = np.flatnonzero(found >= 0)
    asked = values if len(there) == len(values) else values.gather(there)
    other: npt.NDArray[np.bool_] = asked.ne_missing(all_values.gather(found[there])).to_numpy()
    return there[other]


def _hashes(values: pl.Series) -> Hashes:
    """uint64 `[n]`; of null whatever."""
    if values.dtype == pl.String:
        return values.hash(_SEED).to_numpy()
    integers = values.fill_null(0).to_numpy()
    return integers.view(np.uint64) * _MULTIPLIER
