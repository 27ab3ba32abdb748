import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.tables.cost import best_width, blocks_bytes, candidate_widths, choose_layout, least_bytes, paged_cost
from amtl_export.tables.layout import Floats, Ints, blocks, dense, paged, ragged, stored_bytes


@st.composite
def tables(draw: st.DrawFn) -> tuple[Floats, Ints, int]:
    V, D = draw(st.integers(0, 40)), draw(st.integers(1, 20))
    dims = np.array(draw(st.lists(st.integers(0, D), min_size=V, max_size=V)), dtype=np.int64)
    seed = draw(st.integers(0, 2**32 - 1))
    bits = np.random.default_rng(seed).integers(0, 2**32, (V, D), dtype=np.uint32)
    rows = bits.view(np.float32)  # NaN, infinities, denormals and -0 included
    return np.where(np.arange(D) < dims[:, None], rows, np.float32(0)), dims, draw(st.integers(1, D))


@given(tables())
def test_paged_gives_every_row_back_bit_for_bit(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, width = table
    laid_out = paged(rows, dims, width)
    read = laid_out.read(np.arange(len(rows)))
    assert np.array_equal(read.view(np.uint32), rows.view(np.uint32))
    assert not laid_out.pages[0].any()
    assert laid_out.dim == rows.shape[1]


@given(tables())
def test_ragged_stores_what_survives_and_gives_it_back(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, _ = table
    laid_out = ragged(rows, dims)
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()
    assert stored_bytes(laid_out) == 4 * (max(int(dims.sum()), 1) + len(dims) + 1)


@given(tables())
def test_pages_are_as_many_as_survive(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, width = table
    laid_out = paged(rows, dims, width)
    assert len(laid_out.pages) == 1 + int(np.ceil(dims / width).sum())
    assert sorted(laid_out.page_table[laid_out.page_table > 0].tolist()) == list(range(1, len(laid_out.pages)))


@given(tables())
def test_the_cost_model_knows_the_bytes(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, width = table
    assert paged_cost(dims, rows.shape[1], width).bytes == stored_bytes(paged(rows, dims, width))


@given(tables())
def test_blocks_give_every_row_back_and_know_their_bytes(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, _ = table
    rows = np.nan_to_num(rows)  # finite, as every trained row is: a sum keeps those bits, but for -0
    rows[rows == 0] = 0.0
    dims = np.sort(dims)
    rows = np.where(np.arange(rows.shape[1]) < dims[:, None], rows, np.float32(0))
    laid_out = blocks(rows, dims)
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()
    assert laid_out.dim == rows.shape[1]
    if dims.any():
        assert blocks_bytes(dims) == stored_bytes(laid_out)
        assert len(laid_out.tables) == len(set(dims.tolist()) - {0})


@given(tables())
def test_dense_is_the_rows(table: tuple[Floats, Ints, int]) -> None:
    rows, _, _ = table
    laid_out = dense(rows)
    assert stored_bytes(laid_out) == rows.nbytes
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()


@pytest.mark.parametrize("width", [0, -1, 9])
def test_refuses_a_width_outside_the_row(width: int) -> None:
    with pytest.raises(ValueError, match=r"within 1\.\.8"):
        paged(np.zeros((2, 8), np.float32), np.array([1, 2]), width)


def test_refuses_dims_outside_the_row() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.8"):
        paged(np.zeros((2, 8), np.float32), np.array([1, 9]), 4)


def test_widths_divide_the_row() -> None:
    assert candidate_widths(64) == [4, 8, 16, 32]
    assert candidate_widths(7) == [7]
    assert candidate_widths(2) == [2]


def test_auto_pages_only_what_gets_smaller() -> None:
    rng = np.random.default_rng(0)
    assert choose_layout(np.full(1000, 64), 64) == "dense"
    assert choose_layout(rng.integers(60, 65, 1000), 64) == "dense"
    assert choose_layout(rng.integers(1, 20, 1000), 64) == "paged"
    few = np.repeat([64, 40, 20, 64, 30, 10], [10, 90, 400, 10, 90, 400])
    assert choose_layout(few, 64) == "paged"
    assert choose_layout(few, 64, in_blocks=True) == "blocks"
    assert choose_layout(np.full(1000, 64), 64, in_blocks=True) == "dense"
    assert least_bytes(few, 64) == blocks_bytes(few) < best_width(few, 64).bytes < 4 * 1000 * 64
    assert least_bytes(np.full(1000, 64), 64) == 4 * 1000 * 64
    mixed = rng.integers(1, 20, 1000)
    assert least_bytes(mixed, 64) == stored_bytes(ragged(np.ones((1000, 64), np.float32), mixed))
    assert best_width(np.full(1000, 32), 64).width == 32
    assert best_width(np.full(1000, 16), 64).relative_bytes < 0.4
