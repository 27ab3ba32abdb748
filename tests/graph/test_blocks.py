"""Lookups in blocks, as nodes of a graph: every row bit for bit, ids of any rank, ids outside the table."""

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.graph.facts import TABLE
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.native import DOMAIN
from amtl_export.tables.arrange import blocks
from amtl_export.tables.layout import Blocks, Ints
from amtl_export.tables.values import Floats, Stored, stored


def lookup(table: Blocks, rank: int, sizes: list[int], offsets: list[int]) -> ir.Model:
    """A graph that looks ids of some rank up."""
    ids = ir.Value(name="ids", shape=ir.Shape([f"d{i}" for i in range(rank)]), type=ir.TensorType(ir.DataType.INT64))
    rows = ir.Value(name="embedding", const_value=ir.tensor(np.zeros((sum(sizes), table.dim), np.float32)))
    rows.metadata_props[TABLE] = "embedding"
    node = ir.node("Lookup", [rows, ids], {"sizes": sizes, "offsets": offsets}, domain=DOMAIN)
    node.outputs[0].name, node.outputs[0].dtype = "rows", ir.DataType.FLOAT
    opsets = {"": 20, DOMAIN: 1}
    graph = ir.Graph([ids], node.outputs, nodes=[node], initializers=[rows], opset_imports=opsets)
    model = ir.Model(graph, ir_version=10)
    LowerLookups({"embedding": table}, "guard")(model)
    return model


def run(model: ir.Model, ids: Ints) -> Floats:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    found: Floats = session.run(None, {"ids": ids})[0]
    return found


@st.composite
def cut_tables(draw: st.DrawFn) -> tuple[Stored, Ints, tuple[int, ...]]:
    """A table in some value type, its dims, and widths of blocks."""
    V, D = draw(st.integers(1, 30)), draw(st.integers(2, 12))
    dims = np.array(draw(st.lists(st.integers(0, D), min_size=V, max_size=V)), dtype=np.int64)
    if draw(st.booleans()):
        dims = -np.sort(-dims)
    ends = draw(st.sets(st.integers(1, D - 1), max_size=4))
    rows = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(V, D)).astype(np.float32)
    rows = np.where(np.arange(D) < dims[:, None], rows, np.float32(0))
    widths = tuple(b - a for a, b in itertools.pairwise([0, *sorted(ends), D]))
    return stored(rows, draw(st.sampled_from(["fp32", "fp16", "int8"]))), dims, widths


@given(cut_tables(), st.integers(1, 4))
def test_every_row_bit_for_bit(table: tuple[Stored, Ints, tuple[int, ...]], rank: int) -> None:
    rows, dims, widths = table
    laid_out = blocks(rows, dims, widths)
    V, D = rows.numbers.shape
    ids = np.arange(-3, V + 3).reshape([1] * (rank - 1) + [-1])
    known = np.where((ids >= 0) & (ids < V), ids, 0)
    expected = rows.read()[known]
    assert laid_out.read(known.reshape(-1)).tobytes() == expected.tobytes()
    found = run(lookup(laid_out, rank, [V], [0]), ids)
    assert found.shape == (*ids.shape, D)
    assert found.tobytes() == expected.tobytes()


GATHER_IN_ORDER = ["Gather", "Min", "Gather", "Min", "Gather", "Concat"]


@pytest.mark.parametrize(
    ("dims", "widths", "dtype", "kinds"),
    [
        ([4, 4, 4, 4, 4, 4, 4, 4], (4, 1), "fp32", ["Gather", "Min", "Gather", "Concat"]),
        ([4, 4, 2, 2, 1, 1, 0, 0], (1, 2, 2), "fp32", GATHER_IN_ORDER),
        ([4, 4, 2, 2, 1, 1, 0, 0], (1, 2, 2), "fp16", [*GATHER_IN_ORDER, "Cast"]),
        (
            [1, 2, 4, 0, 1, 2, 4, 0],
            (1, 2, 2),
            "fp32",
            ["Gather", "Gather", "Cast", "Slice", "Gather", "Min", "Gather", "Concat"],
        ),
        (
            [1, 2, 4, 0, 1, 2, 4, 0],
            (1, 2, 2),
            "fp16",
            ["Gather", "Gather", "Gather", "Min", "Gather", "Concat", "Cast"],
        ),
    ],
)
def test_all_fields_are_looked_up_at_once(dims: list[int], widths: Any, dtype: Any, kinds: list[str]) -> None:
    rows = np.arange(1, 41, dtype=np.float32).reshape(8, 5)
    rows[np.arange(5) >= np.array(dims)[:, None]] = 0
    model = lookup(blocks(stored(rows, dtype), np.array(dims), widths), 2, [4, 4], [0, 4])
    nodes = [node.op_type for node in model.graph if node.op_type != "Identity"]
    assert nodes[nodes.index("Add") + 1 :] == kinds
    found = run(model, np.array([[0, 3], [1, 2], [-1, 7]]))
    assert np.array_equal(found, rows[np.array([[0, 7], [1, 6], [0, 4]])])
