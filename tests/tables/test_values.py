import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.tables.values import SCALED, Stored, ValueType, pairs, stored, unpaired


def drawn(seed: int, V: int = 50, D: int = 20, spread: float = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(scale=spread, size=(V, 1)))
    return (rng.normal(size=(V, D)) * size).astype(np.float32)


def test_full_precision_keeps_every_bit() -> None:
    rows = drawn(0)
    kept = stored(rows, "fp32")
    assert kept == Stored(kept.numbers, None)
    assert kept.read().tobytes() == rows.tobytes()


@given(st.integers(0, 1000), st.sampled_from(sorted(SCALED)))
def test_a_number_is_off_by_half_a_scale_of_its_row_at_most(seed: int, dtype: ValueType) -> None:
    rows, most = drawn(seed), SCALED[dtype]
    kept = stored(rows, dtype)
    assert kept.numbers.dtype == np.int8
    assert np.abs(kept.numbers).max() <= most
    assert kept.paired == (dtype == "int4")
    assert kept.scales is not None
    scales = kept.scales.read(np.arange(len(rows)))
    assert (np.abs(kept.read() - rows) <= 0.501 * scales[:, None]).all()
    # The scale is the least that reaches the row's largest number, to one code.
    largest = np.abs(rows).max(axis=1)
    assert (most * scales >= largest * (1 - 1e-6)).all()
    assert (most * (scales - kept.scales.unit) <= largest * (1 + 1e-6)).all()


def test_rows_of_zeros_and_tables_of_nothing() -> None:
    rows = np.zeros((3, 4), np.float32)
    for dtype in ("fp16", "int8", "int4"):
        assert not stored(rows, dtype).read().any()
        assert stored(rows[:0], dtype).read().shape == (0, 4)


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_what_is_too_small_becomes_plus_zero(dtype: ValueType) -> None:
    rows = np.array([[-1e-30, 1.0], [-1e-9, -2.0]], np.float32)
    read = stored(rows, dtype).read()
    assert not np.signbit(read[:, 0]).any()
    assert (read[:, 0] == 0).all()


@given(st.lists(st.tuples(st.integers(-7, 7), st.integers(-7, 7))))
def test_pairs_are_given_back(numbers: list[tuple[int, int]]) -> None:
    both = np.array(numbers, dtype=np.int8).reshape(-1, 2)
    made = pairs(both[:, 0], both[:, 1])
    assert made.dtype == np.uint8
    assert np.stack(unpaired(made), axis=1).tobytes() == both.tobytes()


def test_tiny_and_huge_rows_stand_beside_each_other() -> None:
    rows = np.array([[1e-30, -1e-30], [3e38, -1e38]], np.float32)
    kept = stored(rows, "int8").read()
    assert np.isfinite(kept).all()
    np.testing.assert_allclose(kept[1], rows[1], rtol=0.02)


def test_rounding_refuses_what_it_cannot_hold() -> None:
    rows = np.ones((4, 2), np.float32)
    rows[2, 1] = -7e4
    with pytest.raises(ValueError, match="row 2 holds 70000; fp16 reaches 65504"):
        stored(rows, "fp16")
    rows[2, 1] = np.nan
    for dtype in ("fp16", "int8", "int4"):
        with pytest.raises(ValueError, match=f"row 2 holds nan; {dtype}"):
            stored(rows, dtype)
