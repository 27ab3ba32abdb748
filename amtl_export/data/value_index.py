"""Value → position, looked up at a cost that does not grow with how many values are known.

Every value has a 64-bit hash: an integer times an odd constant, a text as Polars hashes it. Hashes lie sorted, and a
directory says where those begin that share their leading bits, about one a bucket. The values of a chunk are looked up
in the order of their hashes, so that memory is read forwards. What a text's hash finds is compared with the text, but
where the caller looks each of them up again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

#: 2^64 over the golden ratio, odd: no two integers have one product, and leading bits spread.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_MULTIPLIER), -1, 2**64))
_SEED = 0x616D746C
_LARGEST = np.uint64(2**64 - 1)

#: Values whose hashes are sorted together, so that a large index is read forwards, and of these as many as the caches
#: hold while they are looked up. Powers of 2.
_BLOCK, _PART = 1 << 18, 1 << 15

Ints = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]


class ValueIndex:
    """Positions of values in a series.

    Args:
        values: String or Int64, each value once, none null; fewer than 2^31.

    Attributes:
        met: whether `positions` was asked for a text that has another one's hash.
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = values
        self.met = False
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
        for start in range(0, len(values), _BLOCK):
            block = values.slice(start, _BLOCK)
            found[start : start + len(block)], met = self._index.positions(block, self.values)
            self.met |= met
        return found

    def known_and_new(self, values: pl.Series, compared: bool) -> tuple[Ints, pl.Series]:
        """Positions of those values that are in the series, and the values that are not; both in any order.

        Costs least where the series is in the order of `hash_order`: it is read forwards too.

        Args:
            values: of the type of the series, none null.
            compared: False takes texts of one hash for one.
        """
        if not len(self.values):
            return np.zeros(0, dtype=np.int32), values
        known, new = [np.zeros(0, dtype=np.int32)], [values.clear()]
        for start in range(0, len(values), _BLOCK):
            block = values.slice(start, _BLOCK)
            found, others = self._index.known_and_new(block, self.values, compared)
            known.append(found)
            new.append(others)
        return np.concatenate(known), pl.concat(new)

    @property
    def _index(self) -> _Hashed:
        self._hashed = self._hashed or _Hashed.of(self.values)
        return self._hashed

    def forget(self) -> None:
        """Free what the first call built; the next one builds it again."""
        self._hashed = None


def hash_order(values: pl.Series) -> npt.NDArray[np.int64]:
    """int64 `[n]`: the values by their hashes."""
    return np.argsort(_hashes(values))


@dataclass(frozen=True)
class _Hashed:
    """Hashes in order, and where they begin.

    Attributes:
        hashes: `[V + 1]`, rising; the last one is the largest there is, and of no value.
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
        order = np.argsort(hashes)
        hashes = hashes[order]
        bits = max(len(values).bit_length(), 1)
        shift = np.uint64(64 - bits)
        begin = np.zeros((1 << bits) + 1, dtype=np.int32)
        np.cumsum(np.bincount((hashes >> shift).view(np.int64), minlength=1 << bits), out=begin[1:])
        return cls(np.append(hashes, _LARGEST), np.append(order, -1).astype(np.int32), begin, shift)

    def positions(self, values: pl.Series, all_values: pl.Series) -> tuple[Ints, bool]:
        """Position of each value, and whether a text found another one's hash."""
        hashes = _hashes(values)
        order = _order(hashes)
        is_text = values.dtype == pl.String
        places, found = np.empty((2, len(values)), dtype=np.int32)
        for start in range(0, len(order), _PART):
            rows = order[start : start + _PART]
            at = self._places(hashes[rows])
            found[rows] = self.known[at]
            if is_text:
                places[rows] = at
        met = is_text and self._tell_apart(values, hashes, places, found, all_values)
        if values.null_count():
            found[values.is_null().to_numpy()] = -1
        return found, met

    def known_and_new(self, values: pl.Series, all_values: pl.Series, compared: bool) -> tuple[Ints, pl.Series]:
        """Positions of the values that are there, and those that are not, in the order of their hashes."""
        hashes = _hashes(values)
        if values.dtype == pl.String:
            order = _order(hashes)
            hashes = hashes[order]
            places = self._places(hashes)
            found = self.known[places]
            if compared:
                self._tell_apart(values.gather(order), hashes, places, found, all_values)
            new = values.gather(order[found < 0])
        else:
            hashes.sort()
            found = self.known[self._places(hashes)]
            new = pl.Series(values.name, (hashes[found < 0] * _INVERSE).view(np.int64))
        return found[found >= 0], new

    def _tell_apart(self, values: pl.Series, hashes: Hashes, places: Ints, found: Ints, all_values: pl.Series) -> bool:
        """Correct `places` and `found` of texts that have another one's hash; whether there are such."""
        todo = _others(values, found, all_values)
        met = len(todo) > 0
        while len(todo):  # the texts of one hash lie side by side
            places[todo] += 1
            more = self.hashes[places[todo]] == hashes[todo]
            found[todo] = np.where(more, self.known[places[todo]], -1)
            todo = todo[_others(values.gather(todo), found[todo], all_values)]
        return met

    def _places(self, asked: Hashes) -> Ints:
        """int32 `[n]`: the first of each of these among the hashes, V if it is not there."""
        at = self.begin.take((asked >> self.shift).view(np.int64))
        there = self.hashes.take(at)
        todo = np.flatnonzero(there < asked)
        while len(todo):  # as often as the fullest bucket has hashes
            at[todo] += 1
            there[todo] = more = self.hashes.take(at.take(todo))
            todo = todo[more < asked.take(todo)]
        at[there != asked] = len(self.known) - 1
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
