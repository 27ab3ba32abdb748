import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data import gathered as gathered_module
from amtl_export.data import value_index as index_module
from amtl_export.data.counting import ValueCounter
from amtl_export.data.gathered import Gathered
from amtl_export.data.value_index import ValueIndex
from amtl_export.data.vocabulary import Vocabulary

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


def expected(known: list[object], asked: list[object]) -> list[int]:
    return [known.index(value) if value is not None and value in known else -1 for value in asked]


@given(st.lists(st.text(max_size=3), unique=True, max_size=40), st.lists(st.none() | st.text(max_size=3), max_size=40))
def test_positions_of_texts(known: list[str], asked: list[str | None]) -> None:
    index = ValueIndex(pl.Series(known, dtype=pl.String))
    asked += known[::3]
    for _ in range(2):  # the second call reads what the first one built
        assert index.positions(pl.Series(asked, dtype=pl.String)).tolist() == expected(list(known), list(asked))
    index.forget()
    assert index.positions(pl.Series(asked, dtype=pl.String)).tolist() == expected(list(known), list(asked))


@given(st.lists(NUMBERS, unique=True, max_size=40), st.lists(st.none() | NUMBERS, max_size=40))
def test_positions_of_integers(known: list[int], asked: list[int | None]) -> None:
    index = ValueIndex(pl.Series(known, dtype=pl.Int64))
    asked += known[::3]
    assert index.positions(pl.Series(asked, dtype=pl.Int64)).tolist() == expected(list(known), list(asked))


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [0, 1, 1 << 63, (1 << 64) - 1]
    monkeypatch.setattr(
        index_module, "_hashes", lambda values: np.array([few[len(v or "") % 4] for v in values], dtype=np.uint64)
    )
    known = [letter * count for letter in "abc" for count in range(1, 10)]
    index = ValueIndex(pl.Series(known))
    asked = [*known[::-1], None, "", "d", "dddd", "cb", "ab" * 4]
    assert index.positions(pl.Series(asked)).tolist() == expected(list(known), list(asked))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    known = pl.Series([f"v{i}" for i in range(1000)])
    asked = known.sample(3000, with_replacement=True, seed=1).extend(pl.Series(["x", None]))
    whole = ValueIndex(known).positions(asked)
    monkeypatch.setattr(index_module, "_BLOCK", 64)
    monkeypatch.setattr(index_module, "_PART", 8)
    np.testing.assert_array_equal(ValueIndex(known).positions(asked), whole)
    assert known[whole[:3000].tolist()].equals(asked.head(3000))


def test_an_index_of_other_values_is_not_used() -> None:
    one = Vocabulary("f", pl.Series(["a", "b"]), np.ones(4, np.int64))
    other = Vocabulary("f", pl.Series(["b", "a"]), np.ones(4, np.int64), index=one.index)
    assert other.encode(pl.Series(["a", "b"])).tolist() == [3, 2]
    assert Vocabulary("g", one.values, one.counts, index=one.index).index is one.index


def test_a_row_is_put_together_a_few_times_however_many_parts_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_module, "_LEAST", 100)
    moved = 0

    def unique(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal moved
        moved += len(frame)
        return frame.unique()

    gathered = Gathered({"v": pl.Int64()}, unique)
    parts, size = 1000, 50
    for number in range(parts):
        gathered.add(pl.DataFrame({"v": range(number * size, number * size + size)}))
    assert len(gathered.whole()) == parts * size
    assert moved <= 4 * parts * size  # with the whole at each part, 500 times


@pytest.mark.parametrize("least", [0, 100, 1 << 18])
def test_counts_do_not_depend_on_when_values_are_known(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    values = pl.Series(np.random.default_rng(0).zipf(1.3, 20_000) % 3000)
    whole = ValueCounter("f", "int64")
    whole.add(values)
    monkeypatch.setattr(gathered_module, "_LEAST", 10)
    monkeypatch.setattr(ValueCounter, "_WAITING", least)
    monkeypatch.setattr(ValueCounter, "_MANY", least // 2)
    parts = ValueCounter("f", "int64")
    for start in range(0, len(values), 97):
        parts.add(values.slice(start, 97))
    assert parts.vocabulary(2).digest == whole.vocabulary(2).digest
