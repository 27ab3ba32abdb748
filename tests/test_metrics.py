import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.metrics import auc, logloss

examples = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


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
