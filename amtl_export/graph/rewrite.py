"""What the rewriting of graphs shares: constants made once, values that take others' places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def initializer(
    graph: ir.Graph, name: str, array: npt.NDArray[Any], facts: Mapping[str, str] | None = None
) -> ir.Value:
    """The initializer of this name, made of `array`, with these facts, if it is not there yet."""
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.tensor(np.empty(0, array.dtype)).dtype
        value.metadata_props.update(facts or {})
        graph.initializers[name] = value
    return graph.initializers[name]


def constant_ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a constant vector, shape or axes; None if it is not constant."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in np.atleast_1d(tensor.numpy())]


def rank(value: ir.Value | None) -> int:
    """Number of axes; -1 where it is not known."""
    return -1 if value is None or value.shape is None else len(value.shape)


def sizes(value: ir.Value) -> tuple[int, ...]:
    """Of each axis; 0 where it is not known."""
    return () if value.shape is None else tuple(s if isinstance(s, int) else 0 for s in value.shape.dims)


def width(value: ir.Value) -> int:
    """Of axis 1; 0 where it is not known."""
    known = sizes(value)
    return known[1] if len(known) > 1 else 0


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer."""
    return value is not None and value.is_initializer()


def is_linear(node: ir.Node) -> bool:
    """Whether a Gemm is x · Wᵀ or x · Wᵀ + b with constant W, nothing scaled."""
    unscaled = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type != "Gemm" or node.domain != "":
        return False
    return is_constant(node.inputs[1]) and {"alpha": 1.0, "beta": 1.0, "transA": 0} | given == unscaled


def is_sum_over_values(node: ir.Node, *kinds: str) -> bool:
    """Whether a node is the ReduceSum, or one of `kinds`, of rows `[B, L, D]` over L; `keepdims` may be either."""
    given = node.op_type in ("ReduceSum", *kinds) and node.domain == "" and len(node.inputs) == 2
    return given and constant_ints(node.inputs[1]) in ([1], [-2])


def drops_axis(total: ir.Node) -> bool:
    """Whether the axis that a node reduces is gone from what it gives."""
    keepdims = total.attributes.get("keepdims")
    return keepdims is not None and keepdims.as_int() == 0


def sole_user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, once; None if others do, or the graph gives it."""
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value, before: Sequence[ir.Node]) -> None:
    """Insert nodes before `old`'s, the last one of which gives `new`, and let `new` take its place.

    The name, type and shape of an output of the graph stay what they were.
    """
    node = old.producer()
    assert node is not None
    nodes = list(before)
    new.type, new.shape = old.type, old.shape
    if old.is_graph_output():
        last = ir.node("Identity", [new])
        new, old.name, last.outputs[0].name = last.outputs[0], None, old.name
        nodes.append(last)
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
