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

#: The fewest and the most values looked up at a time; between them, as many as are known. Few of them fit the caches
#: together with a small index, and many read a large one forwards.
_BLOCKS = 1 << 15, 1 << 18

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
        size = min(max(len(self.values), _BLOCKS[0]), _BLOCKS[1])
        for start in range(0, len(values), size):
            block = values.slice(start, size)
            found[start : start + len(block)] = self._hashed.positions(block, self.values)
        return found

    def forget(self) -> None:
        """Free what the first call built; the next one builds it again."""
        self._hashed = None


@dataclass(frozen=True)
class _Hashed:
    """Hashes in order, and where they begin.

    Attributes:
        hashes: `[V]`, rising.
        known: int32 `[V]`, the position of the value of each.
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
        return cls(hashes, order.astype(np.int32), begin, shift)

    def positions(self, values: pl.Series, all_values: pl.Series) -> Ints:
        hashes = _hashes(values)
        order = np.argsort(hashes)
        asked = hashes[order]
        bucket = (asked >> self.shift).astype(np.int64)
        at, end = self.begin[bucket], self.begin[bucket + 1]
        found = np.full(len(values), -1, dtype=np.int32)
        self._advance(asked, at, end, np.flatnonzero(at < end))
        there = np.flatnonzero(at < end)
        found[order[there]] = self.known[at[there]]
        if values.dtype == pl.String:
            others = _others(values, found, all_values)[order]
            while len(todo := np.flatnonzero(others)):  # another text of the same hash
                at[todo] += 1
                self._advance(asked, at, end, todo[at[todo] < end[todo]])
                rows = order[todo]
                found[rows] = np.where(at[todo] < end[todo], self.known[np.minimum(at[todo], end[todo] - 1)], -1)
                others[todo] = _others(values.gather(rows), found[rows], all_values)
        if values.null_count():
            found[values.is_null().to_numpy()] = -1
        return found

    def _advance(self, asked: Hashes, at: Ints, end: Ints, todo: npt.NDArray[np.int64]) -> None:
        """Move `at` of these to the first equal hash from there on, or to the end of the bucket."""
        while len(todo):  # as often as the fullest bucket has hashes
            there, wanted = self.hashes[at[todo]], asked[todo]
            passed = there > wanted
            at[todo[passed]] = end[todo[passed]]
            todo = todo[there < wanted]
            at[todo] += 1
            todo = todo[at[todo] < end[todo]]


def _others(values: pl.Series, found: Ints, all_values: pl.Series) -> npt.NDArray[np.bool_]:
    """Whether what was found for a text is another one; what was not found is none."""
    there = np.flatnonzero(found >= 0)
    others = np.zeros(len(values), dtype=bool)
    asked = values if len(there) == len(values) else values.gather(there)
    others[there] = asked.ne_missing(all_values.gather(found[there])).to_numpy()
    return others


def _hashes(values: pl.Series) -> Hashes:
    """uint64 `[n]`; of null whatever."""
    if values.dtype == pl.String:
        return values.hash(_SEED).to_numpy()
    integers = values.fill_null(0).to_numpy()
    return integers.view(np.uint64) * _MULTIPLIER
