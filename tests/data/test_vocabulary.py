from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data.counting import ValueCounter
from amtl_export.data.vocabulary import (
    FIRST_VALUE,
    MISSING,
    OOV,
    Vocabulary,
    read_vocabularies,
    vocabulary_file,
    vocabulary_hash,
    write_vocabularies,
)
from amtl_export.errors import InputError

texts = st.lists(st.none() | st.text(max_size=4), max_size=60)
numbers = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=60)


def build(values: list[str | None], min_count: int = 1, padded: bool = False) -> Vocabulary:
    counter = ValueCounter("f", "string", padded=padded)
    counter.add(pl.Series(values, dtype=pl.String))
    return counter.vocabulary(min_count)


@given(texts, st.integers(1, 4), st.booleans())
def test_ids_fall_with_the_count_and_ties_with_the_value(values: list[str | None], least: int, padded: bool) -> None:
    vocabulary = build(values, least, padded)
    counts = Counter(v for v in values if v is not None)
    expected = sorted((v for v, n in counts.items() if n >= least), key=lambda v: (-counts[v], v.encode()))
    assert vocabulary.values.to_list() == expected
    assert vocabulary.counts[OOV] == sum(n for n in counts.values() if n < least)
    assert vocabulary.counts[MISSING] == values.count(None)
    assert vocabulary.counts[FIRST_VALUE : FIRST_VALUE + len(expected)].tolist() == [counts[v] for v in expected]
    assert vocabulary.size == FIRST_VALUE + len(expected) + padded
    assert vocabulary.padding == (vocabulary.size - 1 if padded else None)


@given(texts, texts)
def test_encodes_known_missing_and_unknown(values: list[str | None], asked: list[str | None]) -> None:
    vocabulary = build(values)
    ids = vocabulary.encode(pl.Series(asked, dtype=pl.String))
    known = {v: i + FIRST_VALUE for i, v in enumerate(vocabulary.values.to_list())}
    assert ids.tolist() == [MISSING if v is None else known.get(v, OOV) for v in asked]


@given(numbers)
def test_keeps_every_int64(values: list[int | None]) -> None:
    counter = ValueCounter("f", "int64")
    series = pl.Series(values, dtype=pl.Int64)
    counter.add(series)
    ids = counter.vocabulary(1).encode(series)
    assert all((i == MISSING) if v is None else i >= FIRST_VALUE for i, v in zip(ids, values, strict=True))


@given(texts, st.integers(0, 60))
def test_chunks_do_not_matter(values: list[str | None], cut: int) -> None:
    counter = ValueCounter("f", "string")
    counter.add(pl.Series(values[:cut], dtype=pl.String))
    counter.add(pl.Series(values[cut:], dtype=pl.String))
    assert counter.vocabulary(1).digest == build(values).digest


@given(texts, st.booleans())
def test_survives_its_file(tmp_path_factory: pytest.TempPathFactory, values: list[str | None], padded: bool) -> None:
    folder = tmp_path_factory.mktemp("v")
    vocabulary = build(values, padded=padded)
    write_vocabularies(folder, {"f": vocabulary})
    assert read_vocabularies(folder, ["f"])["f"].digest == vocabulary.digest


def test_hash_sees_values_counts_and_order() -> None:
    one, two = build(["a", "a", "b"]), build(["a", "b", "b"])
    assert len({vocabulary_hash(v) for v in ({"f": one}, {"f": two}, {"f": one, "g": two}, {"g": two, "f": one})}) == 4


def spoil(path: Path, change: pl.Expr) -> None:
    pl.read_parquet(path).with_columns(change).write_parquet(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (pl.col("id") + 1, "not 0, 1, 2"),
        (pl.lit("value").alias("kind"), "out of place"),
        (pl.lit("a").alias("value"), "twice"),
    ],
)
def test_refuses_a_spoilt_file(tmp_path: Path, change: pl.Expr, says: str) -> None:
    write_vocabularies(tmp_path, {"f": build(["a", "b"])})
    spoil(tmp_path / "vocab" / "f.parquet", change)
    with pytest.raises(InputError, match=says):
        read_vocabularies(tmp_path, ["f"])


def test_refuses_a_truncated_file(tmp_path: Path) -> None:
    write_vocabularies(tmp_path, {"f": build(["a", "b"])})
    file = tmp_path / "vocab" / "f.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated"):
        read_vocabularies(tmp_path, ["f"])


def test_counts_are_int64() -> None:
    assert build(["a"]).counts.dtype == np.int64


@given(st.text(max_size=9), st.text(max_size=9))
def test_each_field_has_a_file_of_its_own(one: str, other: str) -> None:
    file = vocabulary_file(one)
    assert Path(file).parent == Path("vocab")
    assert not Path(file).stem.startswith(".") or not one
    assert (file == vocabulary_file(other)) == (one == other)
    assert file.isascii()
