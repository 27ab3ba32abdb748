"""Dims of every id: within the budget, never none, and of least damage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amtl_export.principal.dims import Dims, Rows, dims_at, dims_within, price_range


def drawn(V: int, D: int, seed: int, *, padding: bool = False, spread: float = 2.0) -> Rows:
    rng = np.random.default_rng(seed)
    numbers = (rng.normal(size=(V, D)) * np.exp(rng.normal(size=(V, 1)) * spread)).astype(np.float32)
    longest = np.full(V, D, np.int64)
    if padding and V:
        longest[0], numbers[0] = 0, 0
    return Rows(numbers, rng.integers(1, 50, V).astype(np.float64), rng.uniform(0.1, 2, D), longest)


def total(dims: Sequence[Dims]) -> int:
    return sum(int(own.sum()) for own in dims)


def damage(fields: Sequence[Rows], dims: Sequence[Dims]) -> float:
    lost = 0.0
    for field, own in zip(fields, dims, strict=True):
        past = np.arange(field.numbers.shape[1]) >= own[:, None]
        lost += float((np.concatenate(list(field.energies())) * past).sum())
    return lost


sizes = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5)), min_size=1, max_size=3)


@given(sizes, st.integers(0, 9999), st.floats(0, 1), st.booleans())
def test_within_the_budget(shapes: list[tuple[int, int]], seed: int, share: float, padding: bool) -> None:
    fields = [drawn(V, D, seed + i, padding=padding) for i, (V, D) in enumerate(shapes)]
    least, most = sum(int((own.longest > 0).sum()) for own in fields), sum(int(own.longest.sum()) for own in fields)
    budget = least + int(share * (most - least))
    dims = dims_within(fields, budget)
    assert total(dims) <= budget
    for field, own in zip(fields, dims, strict=True):
        assert own.dtype == np.int64
        assert (own[field.longest > 0] >= 1).all()
        assert (own <= field.longest).all()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9999), st.floats(0, 1))
def test_no_dims_of_as_many_numbers_cost_less(V: int, D: int, seed: int, share: float) -> None:
    field = drawn(V, D, seed, padding=V > 2)
    real = field.longest > 0
    budget = int(real.sum()) + int(share * (D - 1) * real.sum())
    (dims,) = dims_within([field], budget)
    best = min(
        damage([field], [np.where(real, choice, 0)])
        for choice in itertools.product(range(1, D + 1), repeat=V)
        if int(np.where(real, choice, 0).sum()) <= int(dims.sum())
    )
    assert damage([field], [dims]) <= best * (1 + 1e-9) + 1e-12


@settings(max_examples=30)
@given(sizes, st.integers(0, 9999))
def test_more_numbers_never_do_more_damage(shapes: list[tuple[int, int]], seed: int) -> None:
    fields = [drawn(V, D, seed + i) for i, (V, D) in enumerate(shapes)]
    least, most = sum(V for V, _ in shapes), sum(V * D for V, D in shapes)
    found = [dims_within(fields, budget) for budget in range(least, most + 1)]
    for fewer, more in itertools.pairwise(found):
        assert total(fewer) <= total(more)
        assert damage(fields, more) <= damage(fields, fewer) + 1e-12
        assert all((a <= b).all() for a, b in zip(fewer, more, strict=True))
    assert total(found[0]) == least
    assert total(found[-1]) == most


def test_the_budget_is_used() -> None:
    fields = [drawn(500, 8, seed) for seed in (1, 2)]
    for budget in (1000, 2345, 4000, 7999):
        assert budget - 16 <= total(dims_within(fields, budget)) <= budget


def test_a_budget_below_one_dim_is_an_error() -> None:
    with pytest.raises(ValueError, match="one dim for each of 9 rows is more than 8"):
        dims_within([drawn(10, 4, 0, padding=True)], 8)
    (dims,) = dims_within([drawn(10, 4, 0, padding=True)], 9)
    assert dims.tolist() == [0] + [1] * 9


def test_frequent_ids_keep_more() -> None:
    field = drawn(6, 8, seed=3, spread=0)
    again = Rows(
        np.repeat(field.numbers[:1], 6, axis=0), np.array([1.0, 4, 16, 64, 256, 1024]), field.weights, field.longest
    )
    (dims,) = dims_within([again], 24)
    assert (np.diff(dims) >= 0).all()
    assert dims[-1] > dims[0]


def test_counts_and_weights_scale_the_price_alone() -> None:
    field = drawn(20, 6, seed=4)
    scaled = Rows(field.numbers, field.counts * 1e6, field.weights * 1e-3, field.longest)
    np.testing.assert_array_equal(dims_within([field], 60)[0], dims_within([scaled], 60)[0])
    np.testing.assert_array_equal(dims_at([field], 1.0)[0], dims_at([scaled], 1e3)[0])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_rows_of_any_size(size: float) -> None:
    numbers = np.full((5, 4), size, np.float32)
    field = Rows(numbers, np.ones(5), np.ones(4), np.full(5, 4))
    (dims,) = dims_within([field], 11)
    assert 5 <= dims.sum() <= 11
    low, high = price_range([field])
    assert low < high


def test_all_padding_and_no_row() -> None:
    nothing = Rows(np.zeros((4, 3), np.float32), np.ones(4), np.ones(3), np.zeros(4, np.int64))
    none = Rows(np.zeros((0, 3), np.float32), np.ones(0), np.ones(3), np.zeros(0, np.int64))
    for dims in dims_within([nothing, none], 0):
        assert not dims.any()


def test_more_rows_than_a_block() -> None:
    field = drawn((1 << 16) + 3, 2, seed=6)
    (dims,) = dims_within([field], 80_000)
    assert len(dims) == (1 << 16) + 3
    assert 79_990 <= dims.sum() <= 80_000


def test_many_rows_are_cut_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price that is found on a part of the rows leads to that of all of them."""
    fields = [drawn(5000, 8, 7, padding=True), drawn(3000, 5, 8, spread=4.0)]
    budgets = (8100, 12_345, 30_000, 54_000)
    exact = [dims_within(fields, budget) for budget in budgets]
    monkeypatch.setattr("amtl_export.principal.dims._MANY", 256)
    for budget, wanted in zip(budgets, exact, strict=True):
        dims = dims_within(fields, budget)
        assert total(wanted) - 16 <= total(dims) <= budget
        differing = sum(int((a != b).sum()) for a, b in zip(dims, wanted, strict=True))
        assert differing <= 16


@pytest.mark.parametrize(("kind", "D"), [(np.uint8, 4), (np.uint8, 255), (np.int32, 300)])
def test_dims_of_any_type_are_the_same(kind: type[np.integer[Any]], D: int) -> None:
    field = drawn(60, D, 9, padding=True)
    small = Rows(field.numbers, field.counts, field.weights, field.longest.astype(kind))
    for budget in (100, 60 + 10 * D, 40 * D):
        (wanted,), (found,) = dims_within([field], budget), dims_within([small], budget)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, wanted)


def test_many_rows_without_energy_keep_one_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amtl_export.principal.dims._MANY", 16)
    field = Rows(np.zeros((100, 4), np.float32), np.ones(100), np.ones(4), np.full(100, 4))
    (dims,) = dims_within([field], 250)
    assert dims.tolist() == [1] * 100
