"""Drop what a Squeeze leaves as it is: PyTorch's `squeeze(dim)` of an axis that is not 1 does nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import CONSTANT
from amtl_export.graph.passes.base import GraphPass, ensure_none, is_op
from amtl_export.graph.rewrite import constant_ints, initializer, rank, replace_value


class DropIdleSqueezes(GraphPass):
    """Leave out of each Squeeze the axes that are not 1; ONNX Runtime refuses to load a graph that names them.

    requires: nothing.
    ensures: no Squeeze names an axis whose size is known and not 1, or that its result still has.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        idle = [node for node in model.graph if _idle_axes(node)]
        for node in idle:
            _drop(model.graph, node)
        return ir.passes.PassResult(model, bool(idle))

    def ensures(self, model: ir.Model) -> None:
        """No Squeeze names an idle axis."""
        ensure_none(filter(_idle_axes, model.graph), "Squeeze of an axis that is not 1")


def _axes(node: ir.Node) -> list[int]:
    """Axes that a Squeeze names, counted from 0; none if it names none, or the rank is not known."""
    if not is_op(node, "Squeeze") or len(node.inputs) < 2 or rank(node.inputs[0]) < 1:
        return []
    return [axis % rank(node.inputs[0]) for axis in constant_ints(node.inputs[1]) or []]


def _idle_axes(node: ir.Node) -> list[int]:
    """Axes of a Squeeze that are not 1, or all if its result has as many axes as it was given."""
    axes, value = _axes(node), node.inputs[0] if node.inputs else None
    if not axes or value is None or value.shape is None:
        return []
    if rank(node.outputs[0]) == rank(value):
        return axes
    return [axis for axis in axes if isinstance(size := value.shape[axis], int) and size != 1]


def _drop(graph: ir.Graph, node: ir.Node) -> None:
    left = sorted(set(_axes(node)) - set(_idle_axes(node)))
    if left:
        name = f"squeeze/axes_{'_'.join(map(str, left))}"
        node.replace_input_with(1, initializer(graph, name, np.array(left, dtype=np.int64), {CONSTANT: "yes"}))
        return
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    if output.is_graph_output():
        same = ir.node("Identity", [value], metadata_props=dict(node.metadata_props))
        replace_value(graph, output, same.outputs[0], [same])
    else:
        ir.convenience.replace_all_uses_with(output, value)
        graph.remove(node, safe=True)
