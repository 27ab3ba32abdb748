"""Fuse a lookup with the linear layer that reads it: `Lookup → … → Gemm` becomes `ai.amtl::LookupLinear`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.facts import CONSTANT, WEIGHT, fact, table_of
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure, is_custom, is_op, require_unlowered
from amtl_export.graph.passes.quantize_layers import QuantizeLayers
from amtl_export.graph.pieces import Piece, pieces_of, puts_together, side_by_side
from amtl_export.graph.rewrite import initializer, is_constant, is_linear, rank, replace_value, sizes, sole_user, width
from amtl_export.graph.segments import Segment
from amtl_export.graph.weights import PANELS, SCALES, Part, part_of, quantized_form
from amtl_export.native import DOMAIN

#: Numbers of a row up to which a layer of its own is faster than a fused one where it is in int8, or where the rows are
#: looked up anyway.
SHORT = 16


class _Fusable(NamedTuple):
    """A layer that can be fused.

    Attributes:
        gemm: the layer.
        lookup: whose rows it multiplies.
        position: of the rows in `pieces`.
        pieces: what the layer multiplies, side by side.
    """

    gemm: ir.Node
    lookup: ir.Node
    position: int
    pieces: list[Piece]

    @property
    def columns(self) -> range:
        """Of the weight: those that multiply the rows."""
        begin = sum(piece.width for piece in self.pieces[: self.position])
        return range(begin, begin + self.pieces[self.position].width)

    @property
    def rest(self) -> list[Piece]:
        """What else the layer multiplies."""
        return self.pieces[: self.position] + self.pieces[self.position + 1 :]


class FuseFirstLayers(GraphPass):
    """Split each layer that reads the rows of a lookup: `x · Wᵀ + b = rest · W₂ᵀ + (rows · W₁ᵀ + b)`.

    rows · W₁ᵀ + b is a LookupLinear, and a Relu behind it is part of it where there is no rest. Weights stay what they
    were, in parts, or W₁ is quantized; not where something else multiplies these columns of the weight otherwise, or
    with other bases folded in: no single weight would stand for both. Lookups that nothing else reads are gone.

    requires: no lookup is lowered; layers are Gemms (`StateLinearLayers`).
    ensures: every LookupLinear reads one of the tables, and has a size and an offset for each column of its ids.

    Args:
        tables: paths of the tables whose lookups may be fused.
        int8: whether weights that read rows are quantized, an int8 number for each with a scale for each output.
        asked: whether short rows that a layer of its own would rather read are fused as well.
        quantizing: puts layers of their own in int8, if any will be.
    """

    def __init__(
        self,
        tables: Collection[str],
        *,
        int8: bool = False,
        asked: bool = True,
        quantizing: QuantizeLayers | None = None,
    ) -> None:
        super().__init__()
        self._tables, self._int8, self._asked, self._quantizing = tables, int8, asked, quantizing

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = [layer for node in model.graph if (layer := self._fusable(node))]
        if not self._asked:
            found = [own for own in found if not self._better_alone(model.graph, own, found)]
        int8 = [self._int8 and _read_alike(model.graph, layer, found) for layer in found]
        for layer, quantized in zip(found, int8, strict=True):
            _fuse(model.graph, layer, int8=quantized)
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(found))

    def requires(self, model: ir.Model) -> None:
        """No lookup is lowered."""
        require_unlowered(model)

    def ensures(self, model: ir.Model) -> None:
        """Every fused layer reads a table that may be fused, a field for each column."""
        for node in custom_nodes(model):
            if is_custom(node, "LookupLinear"):
                ensure(table_of(node) in self._tables, f"a fused layer reads {table_of(node)}")
                fields = len(node.attributes["sizes"].as_ints())
                ensure(fields == _columns(node.inputs[1]), f"a fused layer of {fields} fields")

    def _better_alone(self, graph: ir.Graph, layer: _Fusable, found: Sequence[_Fusable]) -> bool:
        """Whether rows are short enough for a layer of its own to be the faster one."""
        if not 0 < sizes(layer.lookup.outputs[0])[-1] <= SHORT:
            return False
        if self._quantizing and self._quantizing.takes(graph, layer.gemm):
            return True
        return _read_otherwise(layer.lookup, {id(own.gemm) for own in found})

    def _fusable(self, node: ir.Node) -> _Fusable | None:
        """The layer that a node is; the reason is noted if it cannot be fused."""
        if not is_linear(node):
            if is_op(node, "Gemm") or is_op(node, "MatMul"):
                self.missed(node, _why_not_linear(node))
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and (bias.shape is None or bias.shape.dims[:-1] not in ((), (1,))):
            self.missed(node, "its bias is not one row for all examples", 1)
            return None
        assert node.inputs[0] is not None
        pieces = pieces_of(node.inputs[0])
        if not pieces:
            self.missed(node, "sizes of what it multiplies are not known", 2)
            return None
        fusable = [
            _Fusable(node, look, i, pieces) for i, piece in enumerate(pieces) if (look := self._lookup(node, piece))
        ]
        return max(fusable, key=lambda layer: len(layer.columns), default=None)

    def _lookup(self, gemm: ir.Node, piece: Piece) -> ir.Node | None:
        """The lookup that a piece has the rows of, if it may be fused with the layer."""
        lookup = piece.value.producer()
        if lookup is None or not is_custom(lookup, "Lookup"):
            made = "an input" if lookup is None else f"the result of {lookup.op_type}"
            self.missed(gemm, f"it multiplies {made}, not rows as they are looked up", 3)
            return None
        if table_of(lookup) not in self._tables:
            self.missed(gemm, f"it reads {table_of(lookup) or 'a matrix that is no table'}, not a ragged table", 4)
            return None
        if not _columns(lookup.inputs[1]):
            self.missed(gemm, "the number of ids of an example is not fixed; it must be [batch] or [batch, K]", 5)
            return None
        return lookup


def _read_otherwise(lookup: ir.Node, layers: Collection[int]) -> bool:
    """Whether anything but these layers reads rows, as they are or put side by side with others."""
    waiting = list(lookup.outputs)
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return True
        for node in (use.node for use in value.uses()):
            if id(node) not in layers and not puts_together(node):
                return True
            waiting += [] if id(node) in layers else node.outputs
    return False


def _read_alike(graph: ir.Graph, layer: _Fusable, found: Sequence[_Fusable]) -> bool:
    """Whether all that reads the layer's columns of its weight is fused as it is."""
    weight, columns = layer.gemm.inputs[1], set(_columns_of_whole(layer.gemm.inputs[1], layer.columns))
    fused = {id(own.gemm): own for own in found}
    for value in graph.initializers.values():
        if not value.uses() or (value is not weight and fact(value, WEIGHT) != (fact(weight, WEIGHT) or "")):
            continue
        if _fold(value) != _fold(weight):
            return False
        if columns.isdisjoint(_columns_of_whole(value, range(sizes(value)[-1]))):
            continue
        others = [fused.get(id(use.node)) for use in value.uses()]
        if any(own is None or set(_columns_of_whole(value, own.columns)) != columns for own in others):
            return False
    return True


def _fold(value: ir.Value | None) -> tuple[Segment, ...]:
    part = None if value is None else Part.described(value)
    return part.fold if part else ()


def _columns_of_whole(value: ir.Value | None, columns: Sequence[int]) -> list[int]:
    """Where some columns of an initializer are in the weight that it is a part of."""
    part = None if value is None else Part.described(value)
    return [part.columns[i] for i in columns] if part else list(columns)


def _why_not_linear(node: ir.Node) -> str:
    """Why a product is no layer over one row of each example."""
    x, weight = node.inputs[:2]
    if not is_constant(weight):
        return "it multiplies by no constant"
    shape = ", ".join(map(str, x.shape or ())) if x is not None else ""
    return f"it multiplies [{shape}]; a layer that can be fused multiplies [batch, inputs]"


def _columns(ids: ir.Value | None) -> int:
    """Ids of an example, `[B]` or `[B, K]`; 0 for other shapes."""
    if ids is None or rank(ids) not in (1, 2):
        return 0
    return 1 if rank(ids) == 1 else width(ids)


def _fuse(graph: ir.Graph, layer: _Fusable, *, int8: bool) -> None:
    gemm = layer.gemm
    relu = None if layer.rest else _only_relu(gemm)
    weight, total = gemm.inputs[1], sum(piece.width for piece in layer.pieces)
    assert weight is not None
    fused = _lookup_linear(graph, layer, int8=int8, relu=relu is not None)
    nodes = [fused]
    if layer.rest:
        flattened, rest = side_by_side(layer.rest)
        others = part_of(graph, weight, [i for i in range(total) if i not in layer.columns])
        nodes += [*flattened, ir.node("Gemm", [rest, others, fused.outputs[0]], {"transB": 1})]
    for new in nodes:
        new.metadata_props.update(gemm.metadata_props)
    if relu is not None:
        replace_value(graph, relu.outputs[0], fused.outputs[0], nodes)
    else:
        replace_value(graph, gemm.outputs[0], nodes[-1].outputs[0], nodes)


def _lookup_linear(graph: ir.Graph, layer: _Fusable, *, int8: bool, relu: bool) -> ir.Node:
    """The fused node."""
    lookup, (_, weight, *bias) = layer.lookup, layer.gemm.inputs
    assert weight is not None
    columns = _columns(lookup.inputs[1])
    given = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
    fields = {name: values if len(values) == columns else [*values] * columns for name, values in given.items()}
    forms = [quantized_form(len(layer.columns) // columns), SCALES] if int8 else [PANELS]
    weights, *scales = (part_of(graph, weight, layer.columns, form) for form in forms)
    row = bias[0] if bias else _no_bias(graph, sizes(weight)[0])
    return ir.node("LookupLinear", [*lookup.inputs, weights, row, *scales], fields | {"relu": int(relu)}, domain=DOMAIN)


def _no_bias(graph: ir.Graph, outputs: int) -> ir.Value:
    return initializer(graph, f"layer/no_bias_{outputs}", np.zeros(outputs, np.float32), {CONSTANT: "yes"})


def _only_relu(gemm: ir.Node) -> ir.Node | None:
    """The Relu behind a layer, if it is all that reads it."""
    user = sole_user(gemm.outputs[0])
    return user if is_op(user, "Relu") else None
