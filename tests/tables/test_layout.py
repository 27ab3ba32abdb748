import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.tables import arrange
from amtl_export.tables.arrange import block_bits, blocks, dense, paged, ragged
from amtl_export.tables.cost import (
    MOST_BLOCKS,
    best_blocks,
    best_pages,
    blocks_cost,
    candidate_widths,
    dense_bytes,
    least_bytes,
    paged_cost,
    ragged_bytes,
)
from amtl_export.tables.layout import Blocks, Dense, Ints, LaidOut, Paged, PairedDense, Ragged, block_name, stored_bytes
from amtl_export.tables.values import SCALED, VALUE_TYPES, Floats, Scales, Stored, ValueType, stored


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
    laid_out = paged(Stored(rows), dims, width)
    read = laid_out.read(np.arange(len(rows)))
    assert np.array_equal(read.view(np.uint32), rows.view(np.uint32))
    assert not laid_out.pages[0].any()
    assert laid_out.dim == rows.shape[1]


@given(tables())
def test_ragged_stores_what_survives_and_gives_it_back(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, _ = table
    laid_out = ragged(Stored(rows), dims)
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()
    assert stored_bytes(laid_out) == ragged_bytes(dims, rows.shape[1])


def from_arrays(made: LaidOut) -> LaidOut:
    """A layout made again from the arrays that the graph holds and its nodes' attributes."""
    arrays, D = made.arrays, made.dim
    if isinstance(made, Ragged):
        bits = block_bits(-(-D // 2) if made.paired else D)
        return Ragged(arrays["values"], arrays["block_offsets"], arrays["row_offsets"], bits, D, made.scale_unit)
    scales = Scales(arrays["quantized_scales"], float(arrays["scale_unit"])) if "quantized_scales" in arrays else None
    if isinstance(made, PairedDense):
        assert scales is not None
        return PairedDense(arrays["rows"], D, scales)
    if "rows" in arrays:
        return Dense(arrays["rows"], scales)
    if isinstance(made, Blocks):
        parts = tuple(arrays[block_name(g)] for g in range(len(made.tables)))
        return Blocks(parts, arrays.get("positions"), made.positions_inside, scales)
    return Paged(arrays["pages"], arrays["page_table"], D, scales)


@given(tables(), st.sampled_from(["fp16", "int8", "int4"]))
def test_every_layout_gives_fake_quantized_rows_back(table: tuple[Floats, Ints, int], dtype: ValueType) -> None:
    rows, dims, width = table
    rows = np.clip(np.nan_to_num(rows), -6e4, 6e4)
    numbers = stored(rows, dtype)
    expected = numbers.read()
    V, D = rows.shape
    made: list[LaidOut] = [dense(numbers), ragged(numbers, dims)]
    sizes = [dense_bytes(V, D, dtype), ragged_bytes(dims, D, dtype)]
    if dtype == "int4":
        with pytest.raises(ValueError, match="pages do not hold int4"):
            paged(numbers, dims, width)
    else:
        cut = best_blocks(dims, D, dtype)
        made += [paged(numbers, dims, width), blocks(numbers, dims, cut.widths)]
        sizes += [paged_cost(dims, D, width, dtype).bytes, cut.bytes]
    for laid_out, size in zip(made, sizes, strict=True):
        read_back = from_arrays(laid_out)
        assert read_back.read(np.arange(V)).tobytes() == laid_out.read(np.arange(V)).tobytes() == expected.tobytes()
        step = 4 if dtype in SCALED and not isinstance(laid_out, Ragged) else 0
        assert stored_bytes(laid_out) == size + step


@pytest.mark.parametrize("D", [1, 64, 300, 65535])
def test_offsets_of_ragged_rows_fit_two_bytes(D: int) -> None:
    full = np.ones((5000 if D < 1000 else 5, D), np.float32)
    laid_out = ragged(Stored(full), np.full(len(full), D))
    assert laid_out.row_offsets.dtype == np.uint16
    assert laid_out.begin(np.arange(len(full) + 1)).tolist() == [r * D for r in range(len(full) + 1)]
    with pytest.raises(ValueError, match="got 65536"):
        ragged(Stored(np.ones((1, 65536), np.float32)), np.array([1]))


def test_rows_of_int4_begin_on_a_byte() -> None:
    rows = np.array([[7, -7, 3, 0, 0], [0, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [7, 1, 2, -3, -7]], np.float32)
    dims = np.array([3, 0, 1, 5])
    laid_out = ragged(stored(rows, "int4"), dims)
    assert laid_out.begin(np.arange(5)).tolist() == [0, 2, 2, 3, 6]
    first, second = laid_out.values & 15, laid_out.values >> 4
    assert (first.astype(int) - 8).tolist() == [7, 3, -7, 7, 2, -7]
    assert (second.astype(int) - 8).tolist() == [-7, 0, 0, 1, -3, 0]
    assert laid_out.read(np.arange(4)) == pytest.approx(rows, abs=1e-4)


@given(tables())
def test_pages_are_as_many_as_survive(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, width = table
    laid_out = paged(Stored(rows), dims, width)
    assert len(laid_out.pages) == 1 + int(np.ceil(dims / width).sum())
    assert sorted(laid_out.page_table[laid_out.page_table > 0].tolist()) == list(range(1, len(laid_out.pages)))


@given(tables())
def test_the_cost_model_knows_the_bytes(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, width = table
    assert paged_cost(dims, rows.shape[1], width).bytes == stored_bytes(paged(Stored(rows), dims, width))


@st.composite
def cuts(draw: st.DrawFn, D: int) -> tuple[int, ...]:
    ends = draw(st.sets(st.integers(1, D - 1), max_size=5)) if D > 1 else set()
    return tuple(b - a for a, b in itertools.pairwise([0, *sorted(ends), D]))


@given(tables(), st.data())
def test_blocks_give_every_row_back_and_know_their_bytes(table: tuple[Floats, Ints, int], data: st.DataObject) -> None:
    rows, dims, _ = table
    widths = data.draw(cuts(rows.shape[1]))
    laid_out = blocks(Stored(rows), dims, widths)
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()
    assert laid_out.dim == rows.shape[1]
    assert len(laid_out.tables) == len(widths)
    assert blocks_cost(dims, widths).bytes == stored_bytes(laid_out)


@given(tables())
def test_rows_in_falling_order_need_no_positions(table: tuple[Floats, Ints, int]) -> None:
    rows, dims, _ = table
    order = np.argsort(-dims, kind="stable")
    rows, dims = rows[order], dims[order]
    laid_out = blocks(Stored(rows), dims, best_blocks(dims, rows.shape[1]).widths)
    assert laid_out.positions is None
    assert not laid_out.positions_inside
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()


def test_positions_that_no_float_holds_are_an_array_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    dims = np.array([1, 4, 0, 4, 2])
    rows = np.where(np.arange(4) < dims[:, None], np.float32(1.5), np.float32(0))
    inside, apart = blocks(Stored(rows), dims, (1, 3)), blocks(stored(rows, "fp16"), dims, (1, 3))
    assert inside.positions_inside
    assert inside.tables[0][:, 1].tolist() == [3, 0, 3, 1, 2]
    assert apart.positions is not None
    assert apart.positions.tolist() == [3, 0, 3, 1, 2]
    monkeypatch.setattr(arrange, "_FLOAT_INTEGERS", 2)
    many = blocks(Stored(rows), dims, (1, 3))
    assert many.positions is not None
    assert not many.positions_inside
    assert many.read(np.arange(5)).tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("dims", "D", "widths"),
    [
        (np.zeros(0, np.int64), 8, (8,)),
        (np.zeros(9, np.int64), 8, (1, 7)),
        (np.full(9, 8), 8, (8,)),
        (np.full(9, 3), 8, (3, 5)),
        (np.repeat([2, 8], [990, 10]), 8, (2, 6)),
        (np.tile([2, 8], 500), 8, (8,)),
    ],
)
def test_blocks_end_where_rows_do(dims: Ints, D: int, widths: tuple[int, ...]) -> None:
    assert best_blocks(dims, D).widths == widths


@given(tables(), st.sampled_from(["fp32", "fp16", "int8"]))
def test_no_blocks_are_better_than_the_best(table: tuple[Floats, Ints, int], dtype: ValueType) -> None:
    rows, dims, _ = table
    D = min(rows.shape[1], 9)
    dims = np.minimum(dims, D)
    ends = (c for k in range(MOST_BLOCKS) for c in itertools.combinations(range(1, D), k))
    every = [blocks_cost(dims, tuple(b - a for a, b in itertools.pairwise([0, *c, D])), dtype) for c in ends]
    best = best_blocks(dims, D, dtype)
    assert best.score <= min(cost.score for cost in every) * 1.02  # weights of rows are tried in steps
    assert best.bytes <= dense_bytes(len(dims), D, dtype) + 4 * len(dims)


@pytest.mark.parametrize("widths", [(3, 4), (8, 0), (9, -1)])
def test_refuses_blocks_that_do_not_cut_the_row(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive and add up to 8"):
        blocks(Stored(np.zeros((2, 8), np.float32)), np.array([1, 2]), widths)


@given(tables())
def test_dense_is_the_rows(table: tuple[Floats, Ints, int]) -> None:
    rows, _, _ = table
    laid_out = dense(Stored(rows))
    assert stored_bytes(laid_out) == rows.nbytes
    assert laid_out.read(np.arange(len(rows))).tobytes() == rows.tobytes()


@pytest.mark.parametrize("width", [0, -1, 9])
def test_refuses_a_width_outside_the_row(width: int) -> None:
    with pytest.raises(ValueError, match=r"within 1\.\.8"):
        paged(Stored(np.zeros((2, 8), np.float32)), np.array([1, 2]), width)


def test_refuses_dims_outside_the_row() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.8"):
        paged(Stored(np.zeros((2, 8), np.float32)), np.array([1, 9]), 4)


def test_widths_divide_the_row() -> None:
    assert candidate_widths(64) == [4, 8, 16, 32]
    assert candidate_widths(7) == [7]
    assert candidate_widths(2) == [2]


def test_the_least_bytes_of_all_layouts() -> None:
    rng = np.random.default_rng(0)
    few = np.repeat([64, 20, 10], [10, 90, 900])
    assert least_bytes(few, 64) == best_blocks(few, 64).bytes < best_pages(few, 64).bytes < 4 * 1000 * 64
    assert least_bytes(np.full(1000, 64), 64) == 4 * 1000 * 64
    mixed = rng.integers(1, 20, 1000)
    assert least_bytes(mixed, 64) == stored_bytes(ragged(Stored(np.ones((1000, 64), np.float32)), mixed))
    assert best_pages(np.full(1000, 32), 64).widths == (32,)
    assert best_pages(np.full(1000, 16), 64).relative_bytes < 0.4


@pytest.mark.parametrize("dtype", VALUE_TYPES)
@pytest.mark.parametrize("V", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, 140_001])
def test_more_rows_than_are_worked_on_at_a_time(V: int, dtype: ValueType) -> None:
    rng = np.random.default_rng(V)
    dims = rng.integers(0, 4, V)
    rows = np.where(np.arange(3) < dims[:, None], rng.normal(size=(V, 3)), 0).astype(np.float32)
    kept = stored(rows, dtype)
    tables: list[LaidOut] = [ragged(kept, dims)]
    if dtype != "int4":
        tables += [blocks(kept, dims, widths) for widths in ((1, 2), (1, 1, 1), (2, 1), (3,))]
        order = np.argsort(-dims, kind="stable")
        falling = blocks(stored(rows[order], dtype), dims[order], (1, 2))
        assert falling.positions is None
        np.testing.assert_array_equal(falling.read(np.arange(V)), stored(rows[order], dtype).read())
    for table in tables:
        np.testing.assert_array_equal(table.read(np.arange(V)), kept.read())
