"""Layers in int8 held against PyTorch's, each on what the graph itself gives it: bit for bit.

A rounding before such a layer can turn a quantized number over, so whole models agree to its steps only
(`compare.INT8_TOLERANCE`); the layers alone agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.linear_int8 import CROSS_INT8, LINEAR_INT8
from amtl_export.graph.quantized_linear import QuantizedLinear
from amtl_export.graph.ragged import NO_LEAST
from amtl_export.graph.weights import INT8_SCALES, Part
from amtl_export.runtime.session import Provider, open_session, run
from amtl_export.spec import Feed


@dataclass(frozen=True)
class LayerCheck:
    """What holding the layers against PyTorch's found.

    Attributes:
        layers: how many there are.
        equal: of them, with PyTorch's bits for every example.
        wrong: the others, in words.
    """

    layers: int
    equal: int
    wrong: list[str]


@dataclass(frozen=True)
class _Layer:
    """A layer of the graph: names of what it reads and gives."""

    weight: str
    x: str
    y: str
    least: float
    x0: str | None = None


def check_layers(
    bundle: Bundle, reference: FrozenModel, request: Feed, provider: Provider, *, optimized: bool
) -> LayerCheck:
    """Every layer in int8 of a graph.

    Args:
        bundle: whose graph.
        reference: the model with quantized layers.
        request: what the graph takes.
        provider: where it runs.
        optimized: with the native operators and all optimisations, or neither.

    Raises:
        ValidationFailed: the graph fails on the request.
    """
    model = bundle.graph()
    layers = list(_layers(model.graph))
    if not layers:
        return LayerCheck(0, 0, [])
    names = list(dict.fromkeys(name for own in layers for name in (own.x, own.y, own.x0) if name))
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [_as_output(values[name]) for name in names]
    session = open_session(
        ir.to_proto(model).SerializeToString(),
        provider=provider,
        optimized=optimized,
        weights=bundle.path,
        native=None if optimized else False,
    )
    given = {value.name: request[value.name] for value in session.get_inputs()}
    found = run(session, names, given, where=bundle.path)
    wrong = [problem for own in layers if (problem := _problem(own, reference, found))]
    return LayerCheck(len(layers), len(layers) - len(wrong), wrong)


def _layers(graph: ir.Graph) -> Iterator[_Layer]:
    """The layers, by the scales of their weights, which each has once."""
    for value in graph.initializers.values():
        part = Part.described(value)
        if part is None or part.form != INT8_SCALES:
            continue
        for use in value.uses():
            node = use.node
            if node.op_type in (LINEAR_INT8, CROSS_INT8):
                given = [str(own.name) for own in node.inputs if own is not None]
                x0 = given[-1] if node.op_type == CROSS_INT8 else None
                yield _Layer(part.weight, given[0], str(node.outputs[0].name), node.attributes["least"].as_float(), x0)
            else:
                (added,) = (own.node for own in node.outputs[0].uses())
                yield _Layer(part.weight, _multiplied(node), str(added.outputs[0].name), NO_LEAST)


def _multiplied(node: ir.Node | None) -> str:
    """What the layer of some standard operators multiplies: it is quantized farther up."""
    while node is not None and node.op_type != "QuantizeLinear":
        first = node.inputs[0]
        node = None if first is None else first.producer()
    if node is None or node.inputs[0] is None:
        raise ValidationFailed("a layer in int8 multiplies nothing that is quantized")
    return str(node.inputs[0].name)


def _as_output(value: ir.Value) -> ir.Value:
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), None
    return value


def _problem(layer: _Layer, reference: FrozenModel, found: Feed) -> str:
    """Where a layer answers otherwise than PyTorch's; empty if nowhere."""
    own = reference.module.model.get_submodule(layer.weight.rpartition(".")[0])
    if not isinstance(own, QuantizedLinear):
        raise ValidationFailed("a layer in int8 is none of the model's", found=layer.weight)
    x = torch.from_numpy(found[layer.x])
    with torch.no_grad():
        y = own.multiply(x).clamp(min=layer.least)
        y = torch.from_numpy(found[layer.x0]) * y + x if layer.x0 else y
    expected, answered = y.numpy(), found[layer.y]
    same = _same(expected, answered)
    if same.all():
        return ""
    row, *at = (int(i) for i in np.argwhere(~same)[0])
    place = (row, *at)
    return f"layer {layer.weight}, example {row}: PyTorch {expected[place]:.9g}, the graph {answered[place]:.9g}"


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where two arrays have the same numbers; NaN is itself."""
    same: npt.NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return same
