"""Values counted chunk by chunk, in memory that is bounded however many there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.gathered import Gathered, frame_bytes
from amtl_export.data.spill import Spill
from amtl_export.data.value_index import ValueIndex, hash_order
from amtl_export.data.vocabulary import FIRST_VALUE, OOV, ValueType, Vocabulary
from amtl_export.errors import InputError

_DTYPES: dict[str, pl.DataType] = {"string": pl.String(), "int64": pl.Int64()}

#: Bytes that the counted values of all fields together may take.
COUNTED_BYTES = 1 << 29

#: A spilled value goes to the part that its hash says, and the parts are put together one after the other.
_PARTS = 64

#: Of a known value, beside itself: its count, and up to 20 bytes of its index.
_KNOWN_BYTES = 28


class ValueCounter:
    """Counts values chunk by chunk, holding one row per distinct value that is not spilled.

    Where they are many, values that are known are looked up; new ones wait until their rows are as many.

    Args:
        field: for errors.
        type: of the values.
        padded: whether the vocabulary ends with a padding id.
        compared: False may take texts of one 64-bit hash for one, which costs less. A vocabulary made so stands only if
            each counted value is looked up in it, and its `index.met` stays False.
    """

    #: Rows of new values that wait at least; and the fewest values that are cheaper to look up than to count anew.
    _WAITING, _MANY = 1 << 18, 1 << 15

    def __init__(self, field: str, type: ValueType, *, padded: bool = False, compared: bool = True) -> None:
        self._field = field
        self._compared = compared
        self._padded = padded
        self._missing = 0
        self._dtype = _DTYPES[type]
        self._spill: Spill | None = None
        self._spilled: list[list[slice]] = [[] for _ in range(_PARTS)]
        self._forget()

    def _forget(self) -> None:
        """Know no values."""
        self._known = ValueIndex(pl.Series("value", [], dtype=self._dtype))
        self._counts = np.zeros(0, dtype=np.int64)
        self._new = self._gathered()

    def _gathered(self) -> Gathered:
        return Gathered({"value": self._dtype, "count": pl.Int64()}, _summed)

    @property
    def nbytes(self) -> int:
        """Memory that counted values take."""
        return frame_bytes(self._known.values.to_frame()) + _KNOWN_BYTES * len(self._counts) + self._new.nbytes

    def add(self, values: pl.Series) -> None:
        """Count a chunk of values; null counts as missing."""
        self._missing += values.null_count()
        values = values.drop_nulls().alias("value")
        if len(self._counts):
            at, values = self._known.known_and_new(values, self._compared)
            np.add.at(self._counts, at, 1)
        self._new.add(_side_by_side(values.value_counts(name="count").cast({"count": pl.Int64})))
        if self._new.rows > max(self._WAITING, len(self._counts)) and (
            len(self._counts) or len(self._new.whole()) > self._MANY
        ):
            self._learn()

    def _learn(self) -> None:
        """Know the new values too."""
        new = self._new.whole()
        known = pl.concat([self._known.values.alias("value"), new["value"]])
        order = hash_order(known)
        self._known = ValueIndex(_side_by_side(known.gather(order).to_frame())["value"])
        self._counts = np.concatenate([self._counts, new["count"].to_numpy()])[order]
        self._new = self._gathered()

    def _counted(self) -> pl.DataFrame:
        """Every value that is not spilled, and its count."""
        known = pl.DataFrame({"value": self._known.values, "count": self._counts})
        return pl.concat([known, self._new.whole()])

    def spill(self, spill: Spill) -> None:
        """Put all values aside that are in memory.

        Raises:
            EnvironmentLacks: no room for them.
        """
        self._spill = spill
        counted = self._counted().with_columns(part=pl.col("value").hash() % _PARTS)
        for (part,), frame in counted.partition_by("part", as_dict=True, include_key=False).items():
            self._spilled[part].append(spill.write(frame))
        self._forget()

    def _parts(self) -> Iterator[pl.DataFrame]:
        """Every value and its count: all values at once, or of spilled ones those of a part at a time."""
        if self._spill is None:
            yield self._counted()
            return
        self.spill(self._spill)
        for places in self._spilled:
            gathered = self._gathered()
            for place in places:
                gathered.add(self._spill.read(place))
            yield gathered.whole()

    @property
    def missing(self) -> int:
        """How many values were missing."""
        return self._missing

    def occurrences(self) -> npt.NDArray[np.int64]:
        """How often each value was seen, falling; the values themselves are not needed in memory."""
        counts = np.concatenate([part["count"].to_numpy() for part in self._parts()])
        counts.sort()
        return counts[::-1]

    def vocabulary(self, min_count: int) -> Vocabulary:
        """Values seen at least `min_count` times, by falling count, ties by value."""
        return self.shared([self], min_count)[0]

    @staticmethod
    def shared(
        counters: Sequence[ValueCounter], min_count: int, unknown: str | int | float | None = None
    ) -> list[Vocabulary]:
        """The same values for each: those seen at least `min_count` times in all, by falling count, ties by value.

        Each vocabulary has its own field's counts; rarer values are counted as `unknown`, if that is given.

        Raises:
            InputError: `unknown` is none of the values.
        """
        if spill := next((counter._spill for counter in counters if counter._spill is not None), None):
            for counter in counters:
                counter.spill(spill)
        kept, rare = [], np.zeros(len(counters), dtype=np.int64)
        for counted in zip(*(counter._parts() for counter in counters), strict=True):
            kept.append(_kept(counted, min_count))
            rare += [own["count"].sum() - kept[-1][str(i)].sum() for i, own in enumerate(counted)]
        order = _side_by_side(pl.concat(kept).sort(["count", "value"], descending=[True, False]))
        index = ValueIndex(order["value"])
        read_as = OOV
        if unknown is not None:
            read_as = FIRST_VALUE + int(index.positions(pl.Series([unknown], dtype=index.values.dtype))[0])
        if read_as < FIRST_VALUE and unknown is not None and not index.met:
            raise InputError(
                f"field {counters[0]._field}: unknown values cannot be read as {unknown!r}",
                found=f"training has it fewer than {min_count} times",
                fix="another unknown = … in schema.toml, or a smaller min_count",
            )
        return [own._of(index, order[str(i)], int(rare[i]), read_as) for i, own in enumerate(counters)]

    def _of(self, index: ValueIndex, own: pl.Series, rare: int, unknown: int) -> Vocabulary:
        """These values, with this field's counts."""
        counts = np.concatenate([[0, self._missing], own.to_numpy(), [0] * self._padded]).astype(np.int64)
        counts[unknown] += rare
        return Vocabulary(self._field, index.values, counts, self._padded, unknown, index)


def keep_within(bound: int, counters: Collection[ValueCounter], spill: Spill) -> None:
    """Spill counters, the largest first, until all together take `bound` bytes of memory at most."""
    for counter in sorted(counters, key=lambda counter: counter.nbytes, reverse=True):
        if sum(own.nbytes for own in counters) <= bound:
            return
        counter.spill(spill)


def _kept(counted: Sequence[pl.DataFrame], min_count: int) -> pl.DataFrame:
    """Values seen at least `min_count` times by all together, the joint `count`, and each one's own as `0`, `1`, …"""
    total = counted[0] if len(counted) == 1 else _summed(pl.concat(counted))
    kept = _side_by_side(total.filter(pl.col("count") >= min_count))
    if len(counted) == 1:
        return kept.with_columns(pl.col("count").alias("0"))
    for i, own in enumerate(counted):
        found = kept.join(own, on="value", how="left", maintain_order="left")["count_right"]
        kept = kept.with_columns(found.fill_null(0).alias(str(i)))
    return kept


def _side_by_side(frame: pl.DataFrame) -> pl.DataFrame:
    """The same values in one piece of memory: texts are looked up where they stand, and come from all over the data.

    A text that Polars selects also keeps the memory of all those that it was read with.
    """
    if frame.schema["value"] == pl.String:
        frame = frame.with_columns(pl.concat_str("value", pl.lit("")))
    return frame.rechunk()


def _summed(counted: pl.DataFrame) -> pl.DataFrame:
    """One row a value."""
    return _side_by_side(counted.group_by("value").agg(pl.col("count").sum()))
