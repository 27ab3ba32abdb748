"""Sum rows of one number as numbers side by side: a linear model's `[B, K, 1]` is added up as `[B, K]`."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import CONSTANT
from amtl_export.graph.passes.base import GraphPass, ensure_none
from amtl_export.graph.rewrite import drops_axis, initializer, is_sum_over_values, replace_value, sizes


class SumFlat(GraphPass):
    """Add up neighbours: over a middle axis, ONNX Runtime takes some ten times as long where the last axis is 1.

    requires: nothing.
    ensures: no ReduceSum over K of `[B, K, 1]` is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = list(filter(_is_thin, model.graph))
        for total in found:
            _flatten(model.graph, total)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No such sum is left."""
        ensure_none(filter(_is_thin, model.graph), "sums of rows of one number")


def _is_thin(node: ir.Node) -> bool:
    value = node.inputs[0] if node.inputs else None
    return is_sum_over_values(node) and drops_axis(node) and value is not None and sizes(value)[2:] == (1,)


def _flatten(graph: ir.Graph, total: ir.Node) -> None:
    value = total.inputs[0]
    assert value is not None
    last = initializer(graph, "sum_flat/last", np.array([2], dtype=np.int64), {CONSTANT: "yes"})
    flat = ir.node("Squeeze", [value, last])
    flat.outputs[0].type = value.type
    if value.shape is not None:
        flat.outputs[0].shape = ir.Shape(value.shape.dims[:2])
    added = ir.node("ReduceSum", [flat.outputs[0], total.inputs[1]], {"keepdims": 1})
    for node in (flat, added):
        node.metadata_props.update(total.metadata_props)
    replace_value(graph, total.outputs[0], added.outputs[0], [flat, added])
