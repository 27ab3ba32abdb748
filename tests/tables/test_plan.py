"""The planner: which layout, value type and first layer, and that it knows the bytes beforehand."""

from typing import Any

import numpy as np
import pytest
import torch

from amtl_export.errors import InputError
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.native import MOST_DIM
from amtl_export.tables.layout import stored_bytes
from amtl_export.tables.plan import BLOCK, PlanConfig, lay_out, plan_table
from amtl_export.tables.values import VALUE_TYPES, stored

RNG = np.random.default_rng(0)
LOW = RNG.integers(1, 20, 1000)
FEW = np.repeat([64, 40, 20, 64, 30, 10], [10, 90, 400, 10, 90, 400])


def table(dims: Any, D: int = 64) -> FrozenEmbedding:
    kept = torch.arange(D) < torch.as_tensor(dims).unsqueeze(1)
    rows = torch.where(kept, torch.randn(len(dims), D), 0.0)
    return FrozenEmbedding(rows, torch.as_tensor(dims), [len(dims)], [0])


def test_rows_wider_than_the_operators_take_are_not_ragged() -> None:
    dims = np.array([1, 2, MOST_DIM, 3])
    assert plan_table(table(dims, MOST_DIM), PlanConfig(target="native")).layout == "ragged"
    wide = table(dims, MOST_DIM + 1)
    assert plan_table(wide, PlanConfig(target="native")).layout != "ragged"
    for config in (PlanConfig(layout="ragged"), PlanConfig(first_layer="fused")):
        with pytest.raises(InputError, match="too wide"):
            plan_table(wide, config)


@pytest.mark.parametrize(
    ("dims", "config", "layout"),
    [
        (np.full(1000, 64), {}, "dense"),
        (RNG.integers(60, 65, 1000), {}, "dense"),
        (RNG.integers(60, 65, 1000), {"target": "native"}, "dense"),
        (RNG.integers(1, 51, 1000), {}, "blocks"),
        (np.tile([16, 32, 48, 64], 250), {}, "paged"),
        (LOW, {}, "blocks"),
        (LOW, {"dtype": "int8"}, "blocks"),
        (LOW, {"target": "native"}, "ragged"),
        (LOW, {"target": "native", "dtype": "int8"}, "ragged"),
        (LOW, {"target": "native", "dtype": "int4"}, "ragged"),
        (LOW, {"dtype": "int4"}, "dense"),
        (LOW, {"dtype": "int4", "first_layer": "fused"}, "ragged"),
        (LOW, {"dtype": "int4", "layer_dtype": "int8"}, "dense"),
        (LOW, {"dtype": "int4", "layer_dtype": "int8", "target": "native"}, "ragged"),
        (LOW, {"first_layer": "fused"}, "ragged"),
        (LOW, {"dtype": "int8", "layer_dtype": "int8"}, "blocks"),
        (LOW, {"layer_dtype": "int8"}, "blocks"),
        (LOW, {"layout": "dense", "target": "native"}, "dense"),
        (FEW, {}, "blocks"),
        (np.full(1000, 40), {}, "blocks"),
    ],
)
def test_auto(dims: Any, config: Any, layout: str) -> None:
    assert plan_table(table(dims), PlanConfig(**config)).layout == layout


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_a_compressed_table_is_cut_into_blocks(dtype: Any) -> None:
    rank = np.tile(1 + np.arange(5000), 2)
    dims = np.clip(3 + 40 * rank**-0.3 * np.exp(RNG.normal(0, 0.5, 10_000)), 1, 40).astype(np.int64)
    plan = plan_table(table(dims), PlanConfig(dtype=dtype))
    assert plan.layout == "blocks"
    assert plan.block_widths is not None
    assert 2 <= len(plan.block_widths) <= 4
    assert plan.bytes < 0.4 * plan_table(table(dims), PlanConfig("dense", dtype)).bytes
    assert plan.to_json()["block_widths"] == plan.block_widths


def test_a_table_that_is_read_whole_stays_dense() -> None:
    assert plan_table(table(LOW), PlanConfig(), read_whole=True).layout == "dense"


@pytest.mark.parametrize("layout", ["dense", "paged", "blocks", "ragged"])
@pytest.mark.parametrize("dtype", VALUE_TYPES)
def test_the_bytes_are_known_beforehand(layout: Any, dtype: Any) -> None:
    if layout in ("paged", "blocks") and dtype == "int4":
        with pytest.raises(InputError, match="do not hold int4"):
            PlanConfig(layout, dtype)
        return
    frozen = table(FEW)
    plan = plan_table(frozen, PlanConfig(layout, dtype))
    laid_out = lay_out(stored(frozen.rows.numpy(), plan.dtype), frozen.dims.numpy(), plan)
    assert laid_out.layout == plan.layout == layout
    assert stored_bytes(laid_out) - plan.bytes in (0, 4)  # the unit of the scales
    assert plan.bytes_dense == 4 * 1000 * 64


def test_a_layer_is_fused_where_that_multiplies_less() -> None:
    frozen = table(np.repeat([64, 8], [20_000, 180_000]))
    rare, frequent = np.repeat([1, 1], [20_000, 180_000]), np.repeat([1000, 1], [20_000, 180_000])
    config = PlanConfig(target="native")
    assert plan_table(frozen, config, rare).fused
    assert plan_table(frozen, config, rare).looked_up_dim == pytest.approx(13.6)
    assert not plan_table(frozen, config, frequent).fused
    assert not plan_table(frozen, PlanConfig(layout="ragged"), rare).fused
    assert plan_table(frozen, PlanConfig(layout="ragged", first_layer="fused"), frequent).fused


def test_rows_that_examples_share_are_multiplied_once() -> None:
    counts = np.repeat([1000, 1], [20, 180_000])  # nearly all lookups are of twenty long rows
    frozen = table(np.repeat([64, 8], [20, 180_000]))
    plan = plan_table(frozen, PlanConfig(target="native"), counts)
    drawn = RNG.choice(180_020, (200, BLOCK), p=counts / counts.sum())
    dims = frozen.dims.numpy()
    measured = np.mean([dims[np.unique(block)].sum() for block in drawn]) / (BLOCK * 64)
    assert plan.multiplied == pytest.approx(measured, rel=0.05)
    assert plan.fused


def test_narrow_tables_stay_dense_and_in_full() -> None:
    plan = plan_table(table(np.full(50, 1), D=1), PlanConfig("ragged", "int8", first_layer="fused"))
    assert (plan.layout, plan.dtype, plan.fused) == ("dense", "fp32", False)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"layout": "folded"}, "unknown layout"),
        ({"dtype": "int2"}, "unknown value type"),
        ({"first_layer": "both"}, "unknown first layer"),
        ({"target": "gpu"}, "unknown target"),
        ({"layout": "ragged", "page_width": 4}, "page width goes with"),
        ({"layout": "paged", "first_layer": "fused"}, "reads ragged tables"),
        ({"layer_dtype": "fp16"}, "unknown value type of layers"),
        ({"layout": "paged", "dtype": "int4"}, r"(?s)do not hold int4.*layout='ragged' or layout='dense'"),
    ],
)
def test_what_contradicts_itself_is_refused(config: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        PlanConfig(**config)
