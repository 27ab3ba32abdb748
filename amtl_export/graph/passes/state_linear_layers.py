"""Write every linear layer as one Gemm: `MatMul(x, W)`, an `Add` of b behind it or not, becomes `Gemm(x, Wᵀ, b)`."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from amtl_export.graph.passes.base import GraphPass, ensure_none, is_op
from amtl_export.graph.rewrite import is_constant, rank, replace_value, sizes, sole_user
from amtl_export.graph.weights import transposed


class _Layer(NamedTuple):
    """A linear layer of other nodes than a Gemm with `transB`.

    Attributes:
        product: the MatMul or Gemm of x `[B, inputs]` and a constant `[inputs, outputs]`.
        bias: constant `[outputs]` or `[1, outputs]`, or None.
        last: the node with the result.
    """

    product: ir.Node
    bias: ir.Value | None
    last: ir.Node


class StateLinearLayers(GraphPass):
    """Make a Gemm of x · W + b, x `[B, inputs]` and W a constant, whichever way the model wrote it.

    requires: nothing.
    ensures: no MatMul of two axes by a constant is left; each such layer is a Gemm with W as `[outputs, inputs]`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = [layer for node in model.graph if (layer := _layer(node))]
        for layer in found:
            _state(model.graph, layer)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No such layer is left."""
        ensure_none(filter(_layer, model.graph), "linear layers that are no Gemm")


def _layer(node: ir.Node) -> _Layer | None:
    if not _is_product(node) or rank(node.inputs[0]) != 2 or rank(node.inputs[1]) != 2:
        return None
    if not is_constant(node.inputs[1]):
        return None
    if node.op_type == "Gemm":
        return _Layer(node, node.inputs[2] if len(node.inputs) > 2 else None, node)
    added = sole_user(node.outputs[0])
    bias = _bias(added, node.outputs[0]) if added is not None and is_op(added, "Add") else None
    return _Layer(node, None, node) if added is None or bias is None else _Layer(node, bias, added)


def _is_product(node: ir.Node) -> bool:
    """MatMul, or a Gemm that scales and transposes nothing."""
    unscaled = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    return is_op(node, "MatMul") or (is_op(node, "Gemm") and unscaled | given == unscaled)


def _bias(added: ir.Node, product: ir.Value) -> ir.Value | None:
    """The constant row that an Add adds to a product."""
    others = [value for value in added.inputs if value is not None and value is not product]
    if len(others) != 1 or not is_constant(others[0]):
        return None
    outputs = sizes(product)[-1]
    return others[0] if sizes(others[0]) in [(outputs,), (1, outputs)] else None


def _state(graph: ir.Graph, layer: _Layer) -> None:
    x, matrix = layer.product.inputs[:2]
    assert matrix is not None
    inputs = [x, transposed(graph, matrix)] + ([layer.bias] if layer.bias is not None else [])
    gemm = ir.node("Gemm", inputs, {"transB": 1}, metadata_props=dict(layer.product.metadata_props))
    replace_value(graph, layer.last.outputs[0], gemm.outputs[0], [gemm])
    if layer.last is not layer.product:
        graph.remove(layer.product, safe=True)
    if not matrix.uses():
        graph.initializers.pop(str(matrix.name))
