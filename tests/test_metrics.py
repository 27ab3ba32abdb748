import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.metrics import GroupAuc, auc, gauc, logloss

examples = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)

#: Score, label, group and weight of each example; scores tie often, and some weights are 0 or far apart.
weighted_examples = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 4), st.sampled_from([0.0, 1e-6, 0.25, 1.0, 3.0, 1e4])),
    min_size=1,
    max_size=40,
)


def arrays(rows: list[tuple[int, bool, int, float]]) -> tuple[np.ndarray[Any, Any], ...]:
    types = (np.float32, np.uint8, np.uint64, np.float32)
    return tuple(np.array(column, dtype=kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True))


def pairwise(z: Any, y: Any, w: Any) -> float | None:
    """AUC by looking at every pair; None without both classes."""
    pairs = [
        ((z[i] > z[j]) + 0.5 * (z[i] == z[j]), float(w[i]) * float(w[j]))
        for i in np.flatnonzero(y == 1)
        for j in np.flatnonzero(y == 0)
    ]
    whole = math.fsum(share for _, share in pairs)
    return math.fsum(won * share for won, share in pairs) / whole if whole else None


@given(weighted_examples)
def test_weighted_auc_counts_pairs_by_their_weights(rows: list[tuple[int, bool, int, float]]) -> None:
    z, y, _, w = arrays(rows)
    expected = pairwise(z, y, w)
    if expected is None:
        with pytest.raises(ValueError, match="both classes"):
            auc(z, y, w)
    else:
        assert auc(z, y, w) == pytest.approx(expected, abs=1e-12)


@given(weighted_examples, st.booleans())
def test_gauc_is_the_mean_over_groups_with_both_classes(
    rows: list[tuple[int, bool, int, float]], weighted: bool
) -> None:
    z, y, g, w = arrays(rows)
    mass = w if weighted else np.ones_like(w)
    groups = [(pairwise(*(own[g == one] for own in (z, y, mass))), mass[g == one].sum(dtype=float)) for one in set(g)]
    counted = [(value, n) for value, n in groups if value is not None]
    found = gauc(z, y, g, w if weighted else None)
    assert found.groups == len(counted)
    if not counted:
        assert found.value is None
    else:
        assert found.value == pytest.approx(sum(v * n for v, n in counted) / sum(n for _, n in counted), abs=1e-12)


@given(examples)
def test_one_group_has_the_auc_and_whole_weights_are_repetitions(rows: list[tuple[int, bool]]) -> None:
    z = np.array([value for value, _ in rows], dtype=np.float32)
    y = np.array([label for _, label in rows], dtype=np.uint8)
    w = np.arange(len(rows)) % 3 + 1
    again = np.repeat(np.arange(len(rows)), w)
    group = np.full(len(rows), 7, dtype=np.uint64)
    assert gauc(z, y, group).value == pytest.approx(auc(z, y), abs=1e-12)
    assert auc(z, y, w) == pytest.approx(auc(z[again], y[again]), abs=1e-12)
    assert logloss(z, y, w) == pytest.approx(logloss(z[again], y[again]), abs=1e-12)
    assert gauc(z, y, group, w).value == pytest.approx(auc(z[again], y[again]), abs=1e-12)


def test_gauc_leaves_out_groups_of_one_class() -> None:
    z, y = np.array([1.0, 2.0, 3.0, 0.0, 9.0]), np.array([0, 1, 1, 1, 0])
    assert gauc(z, y, np.array([5, 5, 6, 7, 8])) == GroupAuc(1.0, 1)
    assert gauc(z, y, np.arange(5)) == GroupAuc(None, 0)
    found = gauc(z, y, np.array([5, 5, 5, 6, 6]))
    assert found.value == pytest.approx(1.0 * 3 / 5 + 0.0 * 2 / 5)
    assert found.groups == 2
    with pytest.raises(ValueError, match="1 of 2 logits are NaN"):
        gauc(np.array([np.nan, 1.0]), np.array([0, 1]), np.zeros(2))


def test_groups_far_apart_in_weight_are_each_exact() -> None:
    z, y = np.tile([0.0, 1.0, 1.0, 2.0], 3), np.tile([0, 0, 1, 1], 3)
    g, w = np.repeat([0, 1, 2], 4), np.repeat([1e30, 1e-30, 1.0], 4)
    assert gauc(z[4:8], y[4:8], g[4:8], w[4:8]) == GroupAuc(0.875, 1)
    assert gauc(z, y, g, w).value == pytest.approx(0.875, abs=1e-12)


@given(examples)
def test_auc_counts_pairs_and_halves_ties(rows: list[tuple[int, bool]]) -> None:
    logits = np.array([z for z, _ in rows], dtype=np.float32)
    label = np.array([y for _, y in rows], dtype=np.uint8)
    pairs = [(a > b) + 0.5 * (a == b) for a in logits[label == 1] for b in logits[label == 0]]
    assert auc(logits, label) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(examples)
def test_auc_turns_with_the_sign(rows: list[tuple[int, bool]]) -> None:
    logits = np.array([z for z, _ in rows], dtype=np.float64)
    label = np.array([y for _, y in rows], dtype=np.uint8)
    assert auc(logits, label) + auc(-logits, label) == pytest.approx(1, abs=1e-12)


def test_auc_keeps_what_a_sigmoid_would_round_away() -> None:
    assert auc(np.array([40.0, 41.0], dtype=np.float32), np.array([0, 1])) == 1.0


def test_auc_refuses_one_class_and_nan() -> None:
    with pytest.raises(ValueError, match="2 clicks and 0 non-clicks"):
        auc(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="1 of 2 logits are NaN"):
        auc(np.array([np.nan, 1.0]), np.array([0, 1]))


def test_logloss_is_exact_for_large_logits() -> None:
    found = logloss(np.array([1000.0, -1000.0, 0.0]), np.array([1, 1, 0]))
    assert found == pytest.approx((0 + 1000 + np.log(2)) / 3)


def test_logloss_of_infinite_logits() -> None:
    sure = np.array([np.inf, -np.inf, 0.0])
    assert logloss(sure, np.array([1, 0, 1])) == pytest.approx(np.log(2) / 3)
    assert logloss(sure, np.array([0, 0, 1])) == np.inf
    assert logloss(sure, np.array([0, 0, 1]), np.array([0.0, 1.0, 1.0])) == pytest.approx(np.log(2) / 2)
