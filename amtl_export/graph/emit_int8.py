"""Linear layers in int8: one node of `graph/linear_int8.py` each, or standard operators that give the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from amtl_export.graph.builder import Builder
from amtl_export.graph.linear_int8 import CROSS_INT8, LEAST_SCALE, LINEAR_INT8, Activation, function
from amtl_export.graph.ragged import NO_LEAST
from amtl_export.graph.rewrite import sizes
from amtl_export.graph.weights import INT8_COLUMNS, INT8_OFFSETS, INT8_PANELS, INT8_SCALES, INT8_SIGNED_COLUMNS, part_of
from amtl_export.native import DOMAIN


@dataclass(frozen=True)
class Int8Layer:
    """A layer to be computed in int8.

    Attributes:
        graph: where its initializers go.
        weight: `[outputs, inputs]`, in full precision.
        x: what it multiplies, `[B, inputs]`.
        bias: `[outputs]` or `[1, outputs]`, or None.
        activation: how x is quantized.
        scope: where the names of its nodes begin.
    """

    graph: ir.Graph
    weight: ir.Value
    x: ir.Value
    bias: ir.Value | None
    activation: Activation
    scope: str

    @property
    def outputs(self) -> int:
        """How many."""
        return sizes(self.weight)[0]

    def part(self, form: str) -> ir.Value:
        """The weight in a form of `graph/weights.py`."""
        return part_of(self.graph, self.weight, range(sizes(self.weight)[1]), form)


def native_layer(builder: Builder, layer: Int8Layer, *, relu: bool = False, x0: ir.Value | None = None) -> ir.Value:
    """One node, whose function body goes into the model with it.

    Args:
        builder: of the graph.
        layer: what is computed.
        relu: whether a ReLU is part of it.
        x0: makes it a layer of DCN-V2: x0 * layer + x.
    """
    signed = layer.activation.zero > 0
    offsets = layer.part(INT8_OFFSETS) if signed else builder.constant(*_zeros("offsets", layer.outputs, np.int32))
    bias = layer.bias or builder.constant(*_zeros("bias", layer.outputs, np.float32))
    kind = LINEAR_INT8 if x0 is None else CROSS_INT8
    builder.carry({name: function(name) for name in (LINEAR_INT8, kind)})
    given = [layer.x, layer.part(INT8_PANELS), layer.part(INT8_SCALES), offsets, bias] + ([] if x0 is None else [x0])
    least = 0.0 if relu else NO_LEAST
    return builder.op(kind, *given, name=layer.scope, domain=DOMAIN, zero=layer.activation.zero, least=least)


def standard_layer(builder: Builder, layer: Int8Layer) -> ir.Value:
    """What the function of `LINEAR_INT8` does, for one kind of activation, without a bound."""
    x, (zero, levels), scope, op = layer.x, layer.activation, layer.scope, builder.op
    one = builder.constant("layer/axis_1", np.array([1], np.int64))
    magnitude = op("Abs", x, name=f"{scope}/magnitude") if zero else x
    largest = op("ReduceMax", magnitude, one, name=f"{scope}/largest", keepdims=0)
    unit = builder.constant(f"layer/unit_{levels}", np.array(layer.activation.unit))
    least = builder.constant("layer/least_scale", np.array(LEAST_SCALE, np.float32))
    scale = op("Max", op("Mul", largest, unit, name=f"{scope}/scale_of_largest"), least, name=f"{scope}/scale")
    of_examples, of_all = [], []  # what a zero becomes, where that is not 0
    if zero:
        examples = op("Shape", scale, name=f"{scope}/examples")
        shift = ir.tensor(np.array([zero], np.uint8))
        of_examples = [op("ConstantOfShape", examples, name=f"{scope}/zeros", value=shift)]
        of_all = [builder.constant(f"layer/zero_{zero}", np.array(zero, np.uint8))]
    q = op("QuantizeLinear", x, scale, *of_examples, name=f"{scope}/quantized", axis=0)
    columns = layer.part(INT8_SIGNED_COLUMNS if zero else INT8_COLUMNS)
    sums = op("MatMulInteger", q, columns, *of_all, name=f"{scope}/sums")
    # NaN where a number is not finite, which the largest and the quantized numbers do not show.
    total = op("ReduceSum", x, one, name=f"{scope}/total", keepdims=0)
    nothing = op("Mul", total, builder.constant("layer/nothing", np.array(0, np.float32)), name=f"{scope}/nothing")
    finite = op("Add", scale, nothing, name=f"{scope}/finite_scale")
    y = op("DequantizeLinear", sums, finite, name=f"{scope}/of_example", axis=0)
    y = op("Mul", y, layer.part(INT8_SCALES), name=f"{scope}/scaled")
    return y if layer.bias is None else op("Add", y, layer.bias, name=f"{scope}/result")


def _zeros(what: str, outputs: int, kind: type) -> tuple[str, npt.NDArray[Any]]:
    return f"layer/no_{what}_{outputs}", np.zeros(outputs, kind)
