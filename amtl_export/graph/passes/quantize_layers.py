"""Compute linear layers in int8: `Gemm` becomes `ai.amtl::LinearInt8`, or standard operators that give the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.builder import Builder
from amtl_export.graph.emit_int8 import Int8Layer, native_layer, standard_layer
from amtl_export.graph.facts import WEIGHT, fact
from amtl_export.graph.linear_int8 import LINEAR_INT8, SIGNED, UNSIGNED, Activation
from amtl_export.graph.passes.base import GraphPass, ensure, is_custom, is_op
from amtl_export.graph.quantized_linear import Quantizable
from amtl_export.graph.quantized_model import bases_left_out
from amtl_export.graph.ragged import LINEAR, PANEL
from amtl_export.graph.ragged import LINEAR_INT8 as RAGGED_INT8
from amtl_export.graph.rewrite import is_linear, sizes, sole_user
from amtl_export.graph.weights import COLUMNS, INT8_SCALES, Part

#: Products of a layer, inputs times outputs, from which on it gains by standard operators, of which it takes a dozen.
WORTH = 1 << 14

#: Outputs from which on it gains by the native operator, which has as many columns side by side.
NATIVE_OUTPUTS = PANEL


@dataclass(frozen=True)
class _Layer:
    """A layer that can be computed in int8.

    Attributes:
        gemm: x · Wᵀ + b.
        weight: name of W in the model.
        activation: how x is quantized.
        relu: the node behind it, if that alone reads it.
        cross: the Mul and the Add of `x0 * layer + x` behind it, likewise.
    """

    gemm: ir.Node
    weight: str
    activation: Activation
    relu: ir.Node | None
    cross: tuple[ir.Node, ir.Node] | None

    @property
    def x(self) -> ir.Value:
        """What the layer multiplies."""
        assert self.gemm.inputs[0] is not None
        return self.gemm.inputs[0]

    @property
    def x0(self) -> ir.Value | None:
        """Of the cross; read from its node, since what another layer gives may have taken its place meanwhile."""
        return _other(self.cross[0], self.gemm.outputs[0]) if self.cross else None


class QuantizeLayers(GraphPass):
    """Quantize weights once and what they multiply at each call, example by example.

    A layer is left as it is where its weight is cut or read by something else as well, or is no weight of a plain
    linear layer of the model: PyTorch could not be held against it. So is one that is too small to gain by it. A weight
    into which bases are folded is quantized as it then is: it multiplies coordinates.

    requires: layers are Gemms (`StateLinearLayers`); lookups are lowered.
    ensures: no weight stands in the graph both in int8 and in full precision.

    Args:
        known: what may be quantized; not where the graph has other numbers, since the exporter folded a batch norm in.
        native: whether the native operators will be there.
    """

    def __init__(self, known: Quantizable, *, native: bool) -> None:
        super().__init__()
        self._known, self._native = known, native

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = [layer for node in model.graph if (layer := self._layer(node))]
        found = [layer for layer in found if self._is_held(model.graph, layer)]
        builder, changed = Builder(model), False
        for weight in {layer.weight: None for layer in found}:
            own = [layer for layer in found if layer.weight == weight]
            if not _alone(model.graph, own):
                self.missed(own[0].gemm, "its weight is read otherwise, too", 3)
                continue
            activation = SIGNED if any(layer.activation == SIGNED for layer in own) else UNSIGNED
            for layer in own:
                _emit(builder, model.graph, layer, activation, native=self._native)
            changed = True
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, changed)

    def ensures(self, model: ir.Model) -> None:
        """A weight is quantized everywhere or nowhere."""
        parts = [(fact(v, WEIGHT), Part.described(v)) for v in model.graph.initializers.values()]
        int8 = {part.weight for _, part in parts if part and part.form == INT8_SCALES}
        exact = {weight for weight, part in parts if part is None or not part.form.startswith("int8_")}
        ensure(not int8 & exact, f"weights both in int8 and not: {', '.join(sorted(int8 & exact))}")

    def takes(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Whether it would quantize a layer, as the graph is now."""
        weight = node.inputs[1]
        readers = [] if weight is None else [self._layer(use.node) for use in weight.uses()]
        layers = [layer for layer in readers if layer and self._is_held(graph, layer)]
        return 0 < len(layers) == len(readers) and _alone(graph, layers)

    def _layer(self, node: ir.Node) -> _Layer | None:
        if not is_linear(node):
            return None
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None
        name = fact(weight, WEIGHT)
        if name is None or name not in self._known.weights or not self._is_whole(weight, name):
            self.missed(node, "its weight is no whole weight of a plain linear layer", 1)
            return None
        outputs, inputs = sizes(weight)
        if outputs < NATIVE_OUTPUTS if self._native else outputs * inputs < WORTH:
            self.missed(node, f"{inputs} inputs and {outputs} outputs are too few to gain by it", 2)
            return None
        if bias is not None and sizes(bias) not in [(outputs,), (1, outputs)]:
            self.missed(node, "its bias is not one row for all examples", 2)
            return None
        assert node.inputs[0] is not None
        user = sole_user(node.outputs[0])
        relu = user if is_op(user, "Relu") else None
        activation = UNSIGNED if _never_negative(node.inputs[0]) else SIGNED
        return _Layer(node, name, activation, relu, _cross(node) if self._native else None)

    def _is_held(self, graph: ir.Graph, layer: _Layer) -> bool:
        """Whether PyTorch's model can be given what the layer multiplies, to the last bit."""
        assert layer.gemm.inputs[1] is not None
        part = Part.described(layer.gemm.inputs[1])
        held = part is None or part.bases <= bases_left_out(graph, self._known.weights)
        if not held:
            self.missed(layer.gemm, "something else reads what its bases decode", 3)
        return held

    def _is_whole(self, value: ir.Value, name: str) -> bool:
        """Whether an initializer is a weight, all of it and as it was trained, but for bases that are folded in."""
        tensor, part = ir.convenience.get_const_tensor(value), Part.described(value)
        weights, bases = self._known
        if part and (part.transposed or part.form != COLUMNS or not part.fold or part.unknown_bases(bases)):
            return False
        whole = part.turned(weights[name], bases) if part else weights[name]
        return tensor is not None and np.array_equal(tensor.numpy(), whole)


def _alone(graph: ir.Graph, layers: Sequence[_Layer]) -> bool:
    """Whether nothing but some layers reads their weight or a part of it."""
    weight = layers[0].gemm.inputs[1]
    held = [value for value in graph.initializers.values() if fact(value, WEIGHT) == layers[0].weight and value.uses()]
    return held == [weight] and weight is not None and len(weight.uses()) == len(layers)


def _never_negative(value: ir.Value) -> bool:
    """Whether a ReLU gave it, alone or in one of our own layers, or a sigmoid."""
    node = value.producer()
    if is_op(node, "Relu") or is_op(node, "Sigmoid"):
        return True
    fused = any(is_custom(node, kind) for kind in (LINEAR, RAGGED_INT8, LINEAR_INT8))
    return fused and node is not None and node.attributes["least"].as_float() >= 0


def _cross(gemm: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The Mul and the Add of `x0 * layer + x` behind a layer of x."""
    y, x = gemm.outputs[0], gemm.inputs[0]
    product = sole_user(y)
    if product is None or not is_op(product, "Mul"):
        return None
    added = sole_user(product.outputs[0])
    if added is None or not is_op(added, "Add") or x not in added.inputs:
        return None
    x0 = _other(product, y)
    return None if x0 is None or x is None or x0.shape is None or x0.shape != x.shape else (product, added)


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """What a node reads beside a value."""
    return next((own for own in node.inputs if own is not value), None)


def _emit(builder: Builder, graph: ir.Graph, layer: _Layer, activation: Activation, *, native: bool) -> None:
    weight, *bias = layer.gemm.inputs[1:]
    assert weight is not None
    scope = builder.scope(f"layer/{layer.weight}")
    int8 = Int8Layer(graph, weight, layer.x, bias[0] if bias else None, activation, scope)
    builder.begin(layer.gemm)
    if not native:
        builder.end(layer.gemm.outputs[0], standard_layer(builder, int8))
        return
    last = layer.cross[1] if layer.cross else layer.relu or layer.gemm
    builder.end(last.outputs[0], native_layer(builder, int8, relu=layer.relu is not None, x0=layer.x0))
