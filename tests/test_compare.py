"""The one comparison: against the size of the scores, NaN and infinities included."""

import math
from typing import Any

import numpy as np
import pytest

from amtl_export.compare import Difference, compare
from amtl_export.errors import ValidationFailed

INF, NAN = np.inf, np.nan


def difference(expected: Any, answered: Any) -> Difference:
    (found,) = compare({"y": np.array(expected)}, {"y": np.array(answered), "more": np.zeros(1)})
    return found


@pytest.mark.parametrize(
    ("expected", "answered", "absolute"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([INF, -INF, 1.0], [INF, -INF, 1.0], 0.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([INF], [-INF], INF),
        ([INF], [1e30], INF),
        ([1.0], [INF], INF),
        ([NAN], [1.0], INF),
        ([1.0], [NAN], INF),
        ([NAN], [INF], INF),
        ([], [], 0.0),
        ([[]], [[]], 0.0),
        (3.0, 3.5, 0.5),
    ],
)
def test_what_is_equal(expected: Any, answered: Any, absolute: float) -> None:
    assert difference(expected, answered).absolute == absolute


def test_where_it_is() -> None:
    found = difference([[0.0, NAN], [1.0, 2.0], [3.0, 4.0]], [[0.0, NAN], [1.0, 2.5], [3.0, 4.25]])
    assert (found.row, found.expected, found.answered, found.nans) == (1, 2.0, 2.5, 1)
    assert str(found) == "output y differs by 0.5 at row 1: PyTorch 2, the graph 2.5"


def test_differences_are_held_against_how_far_scores_lie_apart() -> None:
    spread = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert difference(spread, [1.0, 2.0, 3.0, 4.0, 5.5]).scale == 1
    far = [5000 + x for x in spread]
    assert difference(far, [*far[:4], far[4] + 1]).relative == pytest.approx(1 / 50, rel=0.02)  # a hundredth of 5000
    masked = [-1e9, *spread[1:]]
    assert difference(masked, [-1e9, 2.0, 3.0, 4.0, 5.5]).relative == pytest.approx(0.5, rel=0.01)
    assert difference(masked, [-1e9 + 64, *spread[1:]]).relative == 0  # a rounding of float32
    assert math.isinf(difference([1.0, INF], [1.0, 2.0]).relative)


def test_scores_of_zero_have_the_least_scale() -> None:
    assert difference([0.0, 0.0], [0.0, 1e-4]).relative == pytest.approx(0.1)
    assert compare({"y": np.zeros(1)}, {"y": np.full(1, 0.5)}, {"y": 2.0})[0].relative == 0.25


def test_integers_and_truths() -> None:
    assert difference([1, 2], [1, 5]).absolute == 3
    assert difference([0, 255], [255, 0]).absolute == 255
    unsigned = compare({"y": np.array([0], np.uint8)}, {"y": np.array([255], np.uint8)})[0]
    assert unsigned.absolute == 255
    assert difference([True, False], [True, True]).absolute == 1


def test_float64_keeps_its_digits() -> None:
    assert difference([1.0], [1.0 + 1e-12]).absolute == pytest.approx(1e-12, rel=1e-3)


def test_half_precision_does_not_overflow() -> None:
    expected, answered = np.array([60000], np.float16), np.array([-60000], np.float16)
    assert compare({"y": expected}, {"y": answered})[0].absolute == pytest.approx(120_000, rel=0.01)


def test_another_shape_or_output_is_refused() -> None:
    with pytest.raises(ValidationFailed, match=r"(?s)another shape.*output y.*\(2, 1\).*\(2,\)"):
        compare({"y": np.zeros(2)}, {"y": np.zeros((2, 1))})
    with pytest.raises(ValidationFailed, match=r"(?s)lacks an output.*y.*z"):
        compare({"y": np.zeros(2)}, {"z": np.zeros(2)})
