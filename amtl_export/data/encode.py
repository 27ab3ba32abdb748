"""Two passes over a source: count the training split, then write ids as memory-mapped arrays."""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.beside import GROUP, WEIGHT
from amtl_export.data.counting import COUNTED_BYTES, ValueCounter, keep_within
from amtl_export.data.expressions import label_column
from amtl_export.data.normalise import normalisations
from amtl_export.data.numeric_stats import Moments, NumericStats
from amtl_export.data.pace import Pace, paced, unwatched
from amtl_export.data.packed_ids import PackedIds, id_type
from amtl_export.data.raw_sample import RawSample
from amtl_export.data.rows import Chunk, read_rows
from amtl_export.data.schema import SPLITS, Schema, SplitName
from amtl_export.data.source import Source
from amtl_export.data.spill import Spill
from amtl_export.data.vocabulary import MISSING, Vocabulary
from amtl_export.errors import InputError
from amtl_export.files import read_json, write_json

Array = npt.NDArray[Any]

_UNMATCHED = "unmatched.json"


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one split; arrays are memory-mapped.

    Attributes:
        packed: ids of the single-valued categorical fields.
        numeric: float32 `[N, Nn]`, raw values; NaN is missing.
        multi: field → `[N, L]`, of the smallest type that holds its ids, padded with the field's padding id.
        labels: uint8 `[N, T]`, 0 or 1; T is 1 unless the schema names several labels.
        group: uint64 `[N]`, equal for rows of a group; None if the schema names no group.
        weight: float32 `[N]`, finite and not negative; None if the schema names no weight.
    """

    packed: PackedIds
    numeric: Array
    multi: dict[str, Array]
    labels: Array
    group: Array | None = None
    weight: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """int64 `[N, F]`, those of the single-valued categorical fields; a copy in memory."""
        return self.packed.unpacked()

    @property
    def label(self) -> Array:
        """uint8 `[N]`, the main label."""
        main: Array = self.labels[:, 0]
        return main

    def take(self, index: npt.NDArray[np.int64] | slice) -> Rows:
        """A copy of the rows at `index`, in memory."""
        multi = {name: np.array(values[index]) for name, values in self.multi.items()}
        group, weight = (None if own is None else np.array(own[index]) for own in (self.group, self.weight))
        numeric, labels = (np.array(own[index]) for own in (self.numeric, self.labels))
        return Rows(self.packed[index], numeric, multi, labels, group, weight)


@dataclass(frozen=True)
class Encoded:
    """A data set ready for training.

    Attributes:
        schema: what the columns mean.
        vocabularies: embedded field → vocabulary, in `schema.embedded` order.
        stats: numeric field → training statistics.
        rows: split → encoded rows.
        unmatched: of each join, rows whose key is missing or not in the side file.
    """

    schema: Schema
    vocabularies: dict[str, Vocabulary]
    stats: dict[str, NumericStats]
    rows: dict[SplitName, Rows]
    unmatched: tuple[int, ...] = ()


def encode(
    source: Source,
    folder: Path,
    seed: int,
    limit_rows: int | None = None,
    pace: Pace = unwatched,
    counted_bytes: int = COUNTED_BYTES,
) -> Encoded:
    """Count, build vocabularies, and write `folder/<split>/*.npy` and `folder/stats.json`.

    Memory is bounded by the chunk size, by `counted_bytes` and by the vocabularies: rows, and values that are too rare
    for a vocabulary, may be as many as they like.

    Args:
        source: where the rows come from.
        folder: made if need be. What is counted beyond `counted_bytes` waits on its file system meanwhile.
        seed: of the random split.
        limit_rows: stop after this many rows that pass the filter.
        pace: is told how it goes.
        counted_bytes: memory of the values that are being counted, all fields together; the work on them takes more.

    Raises:
        InputError: bad values, an empty split, or a split with one class only.
        EnvironmentLacks: no room in the folder.
    """
    encoded = partial(_encoded, source, folder, seed, limit_rows, pace, counted_bytes)
    if (found := encoded(compared=False)) is None:  # by chance in one of 10^7 data sets of a million texts, or made so
        found = encoded(compared=True)
    assert found is not None
    return found


def _encoded(
    source: Source,
    folder: Path,
    seed: int,
    limit_rows: int | None,
    pace: Pace,
    counted_bytes: int,
    *,
    compared: bool,
) -> Encoded | None:
    """As `encode`; None if texts that were not compared may have been counted together."""
    with Spill(folder) as spill:
        counted = paced(read_rows(source, seed, limit_rows), "counted", pace)
        summary = _count(counted, source.schema, compared, partial(keep_within, counted_bytes, spill=spill))
    _check_splits(summary, source)
    sample = RawSample.drawn(summary.rows[2], seed)
    chunks = paced(read_rows(source, seed, limit_rows), "encoded", pace)
    _write(chunks, source.schema, summary, folder, sample)
    for vocabulary in summary.vocabularies.values():
        vocabulary.index.forget()
    if not compared and any(vocabulary.index.met for vocabulary in summary.vocabularies.values()):
        return None
    sample.write(folder)
    write_json(folder / "stats.json", {name: asdict(stats) for name, stats in summary.stats.items()})
    if source.schema.joins:
        write_json(folder / _UNMATCHED, summary.unmatched)
    rows = open_rows(folder, source.schema, summary.vocabularies)
    return Encoded(source.schema, summary.vocabularies, summary.stats, rows, tuple(summary.unmatched))


def open_unmatched(folder: Path) -> tuple[int, ...]:
    """Read what `encode` wrote of joins."""
    return tuple(read_json(folder / _UNMATCHED)) if (folder / _UNMATCHED).is_file() else ()


def open_rows(folder: Path, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> dict[SplitName, Rows]:
    """Memory-map the encoded splits that are there.

    Raises:
        InputError: an array is missing or truncated, or ids are of other vocabularies.
    """
    types = _id_types(schema, vocabularies)
    return {split: _open_split(folder / split, schema, types) for split in SPLITS if (folder / split).is_dir()}


def _id_types(schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> tuple[np.dtype[Any], ...]:
    """Of the single-valued categorical fields."""
    return tuple(id_type(vocabularies[field.name].size) for field in schema.categorical)


#: What numpy says of a file that is none of its own: it reads the file's header as a piece of Python.
_UNREADABLE = (OSError, ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError)


def _open_split(folder: Path, schema: Schema, types: tuple[np.dtype[Any], ...]) -> Rows:
    def load(name: str) -> Array:
        file = folder / f"{name}.npy"
        try:
            loaded: Array = np.load(file, mmap_mode="r", allow_pickle=False)
        except _UNREADABLE as error:
            raise InputError(
                "encoded rows cannot be read", where=file, found=error, fix="train anew with overwrite=True"
            ) from None
        return loaded

    multi = {f.name: load(f"multi_{f.name}") for f in schema.multi_valued}
    group = None if schema.group is None else load("group")
    weight = None if schema.weight is None else load("weight")
    packed = PackedIds(load("ids"), types)
    if not packed.is_sound:
        raise InputError(
            "encoded ids do not fit their vocabularies",
            where=folder / "ids.npy",
            found=f"{packed.data.dtype} {list(packed.data.shape)}",
            allowed=f"{packed.width} bytes a row",
            fix="train anew with overwrite=True",
        )
    return Rows(packed, load("numeric"), multi, load("labels"), group, weight)


@dataclass
class _Summary:
    vocabularies: dict[str, Vocabulary]
    stats: dict[str, NumericStats]
    rows: list[int]
    weighty: list[int]
    positives: list[list[int]]
    lengths: dict[str, int]
    unmatched: list[int]


def _count(
    chunks: Iterator[Chunk], schema: Schema, compared: bool, bound: Callable[[Collection[ValueCounter]], None]
) -> _Summary:
    listed, specs = {f.of for f in schema.sequences}, normalisations(schema)
    counters = {
        f.name: ValueCounter(
            f.name,
            specs[f.name].vocabulary_type,
            padded=f.kind == "multi-valued" or f.name in listed,
            compared=compared,
        )
        for f in schema.embedded
        if f.of is None
    }
    moments = {f.name: Moments(f.transform) for f in schema.numeric}
    lengths = {f.name: 1 for f in schema.multi_valued}
    rows, weighty = [0, 0, 0], [0, 0, 0]
    positives = [[0 for _ in schema.labels] for _ in SPLITS]
    unmatched = [0] * len(schema.joins)
    for chunk in chunks:
        unmatched = [total + count for total, count in zip(unmatched, chunk.unmatched, strict=True)]
        for index in range(len(SPLITS)):
            part = chunk.of_split(index)
            rows[index] += len(part)
            part = part if schema.weight is None else part.filter(pl.col(WEIGHT) > 0)
            weighty[index] += len(part)
            for label in range(len(schema.labels)):
                positives[index][label] += int(part[label_column(label)].sum())
        for field in schema.multi_valued:
            longest = chunk.fields[field.name].list.len().max()
            lengths[field.name] = max(lengths[field.name], longest if isinstance(longest, int) else 0)
        train = chunk.of_split(0)
        for name, counter in counters.items():
            counter.add(_flat(train[name]))
        bound(counters.values())
        for field in schema.numeric:
            moments[field.name].add(train[field.name].drop_nulls().cast(pl.Float64).to_numpy())
    own = _vocabularies(schema, counters)
    vocabularies = {f.name: own[f.name] if f.of is None else replace(own[f.of], field=f.name) for f in schema.embedded}
    stats = {name: own.stats() for name, own in moments.items()}
    return _Summary(vocabularies, stats, rows, weighty, positives, lengths, unmatched)


def _vocabularies(schema: Schema, counters: dict[str, ValueCounter]) -> dict[str, Vocabulary]:
    """Of every field that is no sequence; fields that share one have the values that they have together."""
    sharing: dict[str, list[str]] = {}
    for field in (f for f in schema.embedded if f.of is None):
        sharing.setdefault(schema.lineage(field)[0].name, []).append(field.name)
    least, specs = {field.name: field.min_count for field in schema.fields}, normalisations(schema)
    found = [
        ValueCounter.shared([counters[n] for n in names], least[owner], specs[owner].unknown)
        for owner, names in sharing.items()
    ]
    return {vocabulary.field: vocabulary for group in found for vocabulary in group}


def _flat(values: pl.Series) -> pl.Series:
    """All values of a chunk; a multi-valued row without any counts once as missing."""
    return values.explode() if isinstance(values.dtype, pl.List) else values


def _check_splits(summary: _Summary, source: Source) -> None:
    counted = "rows" if source.schema.weight is None else "rows of a weight above 0"
    for split, rows, positives in zip(SPLITS, summary.weighty, summary.positives, strict=True):
        for name, positive in zip(source.schema.labels, positives, strict=True):
            if rows == 0 or positive in (0, rows):
                raise InputError(
                    f"the {split} split cannot be used: AUC needs clicks and non-clicks",
                    where=source.path or source.name,
                    found=f"{rows} {counted}, {positive} positive" + (f" by label {name}" if name else ""),
                    fix="more rows (limit_rows), or another label, filter or [split] in schema.toml",
                )


def _write(chunks: Iterator[Chunk], schema: Schema, summary: _Summary, folder: Path, sample: RawSample) -> None:
    arrays = [_create(folder / split, schema, n, summary) for split, n in zip(SPLITS, summary.rows, strict=True)]
    start = [0, 0, 0]
    for chunk in chunks:
        sample.take(chunk.raw_of_split(2), start[2])
        for index, rows in enumerate(arrays):
            part = chunk.of_split(index)
            place = slice(start[index], start[index] + len(part))
            _fill(rows, place, part, schema, summary.vocabularies)
            start[index] += len(part)
    if start != summary.rows:
        raise InputError("the data changed while it was read", found=f"{start} rows", allowed=f"{summary.rows} rows")
    for rows in arrays:
        for array in (rows.packed.data, rows.numeric, rows.labels, *rows.multi.values(), rows.group, rows.weight):
            if array is not None:
                array.flush()  # type: ignore[attr-defined]  # a memmap, typed as the array it is read as later


def _create(folder: Path, schema: Schema, n: int, summary: _Summary) -> Rows:
    folder.mkdir(parents=True, exist_ok=True)

    def array(name: str, dtype: npt.DTypeLike, *shape: int) -> Array:
        return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=shape)

    multi = {
        f.name: array(f"multi_{f.name}", id_type(summary.vocabularies[f.name].size), n, summary.lengths[f.name])
        for f in schema.multi_valued
    }
    types = _id_types(schema, summary.vocabularies)
    packed = PackedIds(array("ids", "|u1", n, sum(own.itemsize for own in types)), types)
    numeric = array("numeric", "<f4", n, len(schema.numeric))
    labels = array("labels", "|u1", n, len(schema.labels))
    group = None if schema.group is None else array("group", "<u8", n)
    weight = None if schema.weight is None else array("weight", "<f4", n)
    return Rows(packed, numeric, multi, labels, group, weight)


def _fill(rows: Rows, place: slice, part: pl.DataFrame, schema: Schema, vocabularies: dict[str, Vocabulary]) -> None:
    for column, field in enumerate(schema.categorical):
        rows.packed.column(column)[place] = vocabularies[field.name].encode(part[field.name])
    for column, field in enumerate(schema.numeric):
        rows.numeric[place, column] = part[field.name].fill_null(float("nan")).to_numpy()
    for field in schema.multi_valued:
        width = rows.multi[field.name].shape[1]
        rows.multi[field.name][place] = padded_ids(part[field.name], vocabularies[field.name], width)
    for column in range(len(schema.labels)):
        rows.labels[place, column] = part[label_column(column)].to_numpy()
    for array, name in ((rows.group, GROUP), (rows.weight, WEIGHT)):
        if array is not None:
            array[place] = part[name].to_numpy()


def padded_ids(values: pl.Series, vocabulary: Vocabulary, width: int) -> npt.NDArray[np.int32]:
    """Ids of a List series, `[N, width]`; a row without values is missing; the rest is padding.

    Args:
        values: List of String or Int64, at most `width` values a row.
        vocabulary: of a multi-valued field.
        width: L.
    """
    assert vocabulary.padding is not None
    padded = np.full((len(values), width), vocabulary.padding, dtype=np.int32)
    lengths = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    ids = vocabulary.encode(values.filter(pl.Series(lengths > 0)).explode())
    row = np.repeat(np.arange(len(values)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[row, np.arange(len(ids)) - first] = ids
    padded[lengths == 0, 0] = MISSING
    return padded
