"""State the shapes that Reshapes give: `Concat(Shape(x)[0], 24)` becomes `[-1, 24]`.

onnxscript 0.7.2 and later write one form, earlier ones the other; what follows matches constant shapes alone.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.facts import CONSTANT
from amtl_export.graph.passes.base import GraphPass, ensure_none, is_op
from amtl_export.graph.rewrite import constant_ints, initializer


class StateShapes(GraphPass):
    """Give each Reshape a constant shape where at most one of its result's sizes is not known.

    Equal nodes are merged then: shapes computed apart made them differ.

    requires: nothing.
    ensures: the shape of such a Reshape is a constant, with -1 for the size that is not known.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = [(node, shape) for node in model.graph if (shape := _stated(node))]
        for node, shape in found:
            name = f"shape/{'_'.join(map(str, shape))}"
            value = initializer(model.graph, name, np.array(shape, dtype=np.int64), {CONSTANT: "yes"})
            node.replace_input_with(1, value)
        if found:
            common.RemoveUnusedNodesPass()(model)
            common.CommonSubexpressionEliminationPass()(model)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No Reshape whose shape could be stated has a computed one."""
        ensure_none(filter(_stated, model.graph), "Reshape to a shape that is computed")


def _stated(node: ir.Node) -> list[int] | None:
    """The shape that a Reshape with a computed one has; None where that is not known, or constant already."""
    shape = node.outputs[0].shape
    if not is_op(node, "Reshape") or constant_ints(node.inputs[1]) is not None or shape is None:
        return None
    known = [size for size in shape.dims if isinstance(size, int)]
    if len(shape) - len(known) > 1 or (len(known) < len(shape) and not math.prod(known)):
        return None  # of no numbers at all, -1 could be any size
    return [size if isinstance(size, int) else -1 for size in shape.dims]
