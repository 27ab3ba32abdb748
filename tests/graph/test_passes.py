"""Single passes on small graphs: what they require, ensure, and return."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from amtl_export.graph.facts import TABLE
from amtl_export.graph.passes.drop_idle_squeezes import DropIdleSqueezes
from amtl_export.graph.passes.fuse_first_layers import FuseFirstLayers
from amtl_export.graph.passes.fuse_pairs import FusePairs
from amtl_export.graph.passes.fuse_sums import FuseSums
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.graph.passes.read_rows_alone import ReadRowsAlone
from amtl_export.graph.passes.state_linear_layers import StateLinearLayers
from amtl_export.graph.passes.state_shapes import StateShapes
from amtl_export.graph.passes.sum_flat import SumFlat
from amtl_export.graph.pipeline import Step, run
from amtl_export.graph.rewrite import constant_ints, is_linear
from amtl_export.native import DOMAIN
from amtl_export.tables.arrange import ragged
from amtl_export.tables.layout import Dense
from amtl_export.tables.values import stored


def value(name: str, *shape: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def constant(name: str, array: np.ndarray) -> ir.Value:
    made = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape))
    made.dtype = ir.tensor(array).dtype
    return made


def ints(name: str, *numbers: int) -> ir.Value:
    return constant(name, np.array(numbers, dtype=np.int64))


def graph_of(nodes: list[ir.Node], *inputs: ir.Value) -> ir.Model:
    """The nodes, all initializers that they read, and the last one's result as output."""
    read = {v for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    for i, node in enumerate(nodes):
        node.outputs[0].name = f"v{i}"
    graph = ir.Graph(inputs, [nodes[-1].outputs[0]], nodes=nodes, initializers=list(read), opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def result(node: ir.Node, *shape: int | str) -> ir.Value:
    node.outputs[0].shape = ir.Shape(shape)
    return node.outputs[0]


def test_shapes_as_onnxscript_0_7_0_writes_them_are_stated() -> None:
    x = value("x", "batch", 2, 8)
    rows = ir.node("Shape", [x], {"start": 0, "end": 1})
    shape = ir.node("Concat", [rows.outputs[0], ints("sixteen", 16)], {"axis": 0})
    views = [ir.node("Reshape", [x, shape.outputs[0]]) for _ in range(2)]
    added = ir.node("Add", [result(view, "batch", 16) for view in views])
    model = graph_of([rows, shape, *views, added], x)
    assert StateShapes()(model).modified
    assert [node.op_type for node in model.graph] == ["Reshape", "Add"]
    assert constant_ints(model.graph[0].inputs[1]) == [-1, 16]
    assert not StateShapes()(model).modified


@pytest.mark.parametrize("sizes", [("batch", "length"), ("batch", 0)])
def test_a_shape_that_minus_one_cannot_state_is_left(sizes: tuple[int | str, ...]) -> None:
    x, shape = value("x", "batch", 2, 8), value("shape", 2, dtype=ir.DataType.INT64)
    view = ir.node("Reshape", [x, shape])
    result(view, *sizes)
    assert not StateShapes()(graph_of([view], x, shape)).modified


@pytest.mark.parametrize(("axes", "left"), [((1,), None), ((-1, 1), [2]), ((2,), [2])])
def test_axes_that_are_not_1_are_dropped(axes: tuple[int, ...], left: list[int] | None) -> None:
    x = value("x", "batch", 3, 1)
    squeeze = ir.node("Squeeze", [x, ints("axes", *axes)])
    result(squeeze, "batch", 3, *([1] if left is None else []))
    negated = ir.node("Neg", [squeeze.outputs[0]])
    model = graph_of([squeeze, negated], x)
    assert DropIdleSqueezes()(model).modified == (axes != (2,))
    kept = [node for node in model.graph if node.op_type == "Squeeze"]
    assert [constant_ints(node.inputs[1]) for node in kept] == ([] if left is None else [left])


def test_products_by_constants_are_layers() -> None:
    x, weight = value("x", "batch", 3), constant("w", np.arange(6, dtype=np.float32).reshape(3, 2))
    product = ir.node("MatMul", [x, weight])
    added = ir.node("Add", [constant("b", np.ones(2, np.float32)), result(product, "batch", 2)])
    result(added, "batch", 2)
    model = graph_of([product, added], x)
    assert StateLinearLayers()(model).modified
    layer = model.graph[0]
    assert is_linear(layer)
    weight, bias = (v for v in layer.inputs[1:] if v is not None)
    assert weight.const_value is not None
    np.testing.assert_array_equal(weight.const_value.numpy(), np.arange(6).reshape(3, 2).T)
    assert bias.name == "b"
    assert not StateLinearLayers()(model).modified


@pytest.mark.parametrize(("last", "keepdims", "flat"), [(1, 0, True), (2, 0, False), (1, 1, False)])
def test_rows_of_one_number_are_added_up_side_by_side(last: int, keepdims: int, flat: bool) -> None:
    x = value("x", "batch", 4, last)
    total = ir.node("ReduceSum", [x, ints("axis", 1)], {"keepdims": keepdims})
    result(total, "batch", *[1] * keepdims, last)
    negated = ir.node("Neg", [total.outputs[0]])
    model = graph_of([total, negated], x)
    assert SumFlat()(model).modified == flat
    assert [node.op_type for node in model.graph] == [*["Squeeze"] * flat, "ReduceSum", "Neg"]


def summed(axis: int, values: int | str = 4) -> ir.Model:
    ids, table = value("ids", "batch", values, dtype=ir.DataType.INT64), constant("t", np.zeros((9, 2), np.float32))
    table.metadata_props[TABLE] = "item"
    lookup = ir.node("Lookup", [table, ids], {"sizes": [9], "offsets": [0]}, domain=DOMAIN)
    total = ir.node("ReduceSum", [result(lookup, "batch", values, 2), ints("axis", axis)], {"keepdims": 0})
    result(total, "batch", 2)
    model = graph_of([lookup, total], ids)
    model.graph.opset_imports[DOMAIN] = 1
    return model


@pytest.mark.parametrize(("axis", "fuses"), [(1, True), (-2, True), (2, False)])
def test_a_sum_over_values_is_fused(axis: int, fuses: bool) -> None:
    model = summed(axis)
    assert FuseSums(["item"])(model).modified == fuses
    assert any(node.op_type == "LookupSum" for node in model.graph) == fuses
    assert not FuseSums(["another"])(summed(axis)).modified


@pytest.mark.parametrize(("values", "few"), [(8, True), (9, False), ("tags", True), ("history", False), ("any", False)])
def test_few_values_of_a_narrow_table_are_added_up_values_first(values: int | str, few: bool) -> None:
    model = summed(1, values)
    assert FuseSums([], ["item"], {"tags": 8, "history": 9})(model).modified == few
    LowerLookups({"item": Dense(np.zeros((9, 2), np.float32))}, "guard")(model)
    kinds = [node.op_type for node in model.graph]
    assert ("Transpose" in kinds) == few
    (total,) = (node for node in model.graph if node.op_type == "ReduceSum")
    assert constant_ints(total.inputs[1]) == [0 if few else 1]


def pairs(*, kept: bool = True, power: int = 2, another: bool = False) -> ir.Model:
    """A factorization machine's pairs; of sums that keep their axis, of other powers, or of two lookups."""
    ids, table = value("ids", "batch", 4, dtype=ir.DataType.INT64), constant("t", np.zeros((9, 2), np.float32))
    table.metadata_props[TABLE] = "item"
    lookups = [ir.node("Lookup", [table, ids], {"sizes": [9], "offsets": [0]}, domain=DOMAIN) for _ in range(2)]
    first, second = (result(lookup, "batch", 4, 2) for lookup in lookups)
    axes = {"keepdims": int(not kept)}
    total = ir.node("ReduceSum", [first, ints("axis", 1)], axes)
    square = ir.node("Pow", [total.outputs[0], constant("two", np.array(power, np.float32))])
    own = second if another else first
    squares = ir.node("Mul", [own, own])
    sum_of_squares = ir.node("ReduceSum", [squares.outputs[0], ints("one", 1)], axes)
    difference = ir.node("Sub", [square.outputs[0], sum_of_squares.outputs[0]])
    result(difference, "batch", *[1] * (not kept), 2)
    used = lookups if another else lookups[:1]
    model = graph_of([*used, total, square, squares, sum_of_squares, difference], ids)
    model.graph.opset_imports[DOMAIN] = 1
    return model


def test_pairs_of_rows_are_fused() -> None:
    model = pairs()
    assert FusePairs(["item"])(model).modified
    assert [node.op_type for node in model.graph] == ["LookupPairs", "Identity"]  # the output keeps its name
    assert not FusePairs(["another"])(pairs()).modified


@pytest.mark.parametrize("other", [{"kept": False}, {"power": 3}, {"another": True}])
def test_what_only_looks_like_pairs_is_left(other: dict[str, Any]) -> None:
    assert not FusePairs(["item"])(pairs(**other)).modified


def test_a_pass_in_the_wrong_place_names_itself_and_those_before() -> None:
    table = Dense(np.zeros((9, 2), np.float32))
    with pytest.raises(ir.passes.PreconditionError, match="table item is not laid out"):
        LowerLookups({}, "guard")(summed(1))
    with pytest.raises(ir.passes.PreconditionError, match="LookupPairs of item, which is not ragged") as caught:
        run([Step(ReadRowsAlone()), Step(FusePairs(["item"])), Step(LowerLookups({"item": table}, "guard"))], pairs())
    assert caught.value.__notes__ == ["in LowerLookups, after ReadRowsAlone, FusePairs"]


def test_ragged_tables_are_all_of_int4_or_none_is() -> None:
    rows, dims = np.ones((6, 4), np.float32), np.full(6, 4)
    tables = {"item": ragged(stored(rows, "int4"), dims), "user": ragged(stored(rows, "int8"), dims)}
    with pytest.raises(ir.passes.PreconditionError, match="some ragged tables are of int4"):
        LowerLookups(tables, "guard")(graph_of([ir.node("Identity", [x := value("x", 2)])], x))


@pytest.mark.parametrize(
    ("asked", "also", "dim", "fuses"),
    [(False, True, 2, False), (True, True, 2, True), (False, False, 2, True), (False, True, 32, True)],
)
def test_short_rows_that_are_looked_up_anyway_are_not_fused(asked: bool, also: bool, dim: int, fuses: bool) -> None:
    ids, table = value("ids", "batch", 4, dtype=ir.DataType.INT64), constant("t", np.zeros((9, dim), np.float32))
    table.metadata_props[TABLE] = "item"
    lookup = ir.node("Lookup", [table, ids], {"sizes": [9], "offsets": [0]}, domain=DOMAIN)
    flat = ir.node("Flatten", [result(lookup, "batch", 4, dim)], {"axis": 1})
    weight = constant("w", np.ones((3, 4 * dim), np.float32))
    layer = ir.node("Gemm", [result(flat, "batch", 4 * dim), weight], {"transB": 1})
    others = [ir.node("ReduceMax", [lookup.outputs[0], ints("axis", 1)]) for _ in range(also)]
    result(layer, "batch", 3)
    model = graph_of([lookup, flat, *others, layer], ids)
    model.graph.opset_imports[DOMAIN] = 1
    model.graph.outputs.extend(result(other, "batch", 1, dim) for other in others)
    assert FuseFirstLayers(["item"], asked=asked)(model).modified == fuses
    assert any(node.op_type == "LookupLinear" for node in model.graph) == fuses
