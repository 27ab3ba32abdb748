"""Fuse a lookup with the linear layer that reads it: `Lookup → … → Gemm` becomes `ai.amtl::LookupLinear`.

requires: a model from `trace`, before `lower_lookups`.
ensures: every `Gemm` whose first columns are the rows of one Lookup in a table asked for is split by columns,
`x · Wᵀ + b = rest · W₂ᵀ + (rows · W₁ᵀ + b)`; rows · W₁ᵀ + b is a LookupLinear, and a Relu behind it is part of it where
there is no rest. Weights stay what they were, in parts that `graph/weights.py` names, or W₁ is quantized.
Lookups that nothing else reads are gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.errors import InputError
from amtl_export.graph.facts import table_of
from amtl_export.graph.rewrite import is_linear, replace_value
from amtl_export.graph.weights import PANELS, SCALES, part_of, quantized_form
from amtl_export.native import DOMAIN


@dataclass(frozen=True)
class _Piece:
    """Some neighbouring columns of what a Gemm multiplies.

    Attributes:
        value: `[B, width]`, or `[B, …]` to be flattened.
        width: columns.
    """

    value: ir.Value
    width: int


def fuse_first_layers(model: ir.Model, tables: Collection[str], *, required: bool = False, int8: bool = False) -> int:
    """Rewrite in place.

    Args:
        model: from `trace`.
        tables: paths of the tables whose lookups may be fused.
        required: whether it is an error if no layer can be fused.
        int8: whether weights that read rows are quantized, an int8 number for each with a scale for each output.

    Returns:
        How many layers were fused.

    Raises:
        InputError: none, and that is an error.
    """
    fused = 0
    for node in list(model.graph):
        if is_linear(node):
            fused += _fuse(model.graph, node, tables, int8=int8)
    if required and not fused:
        raise InputError(
            "no linear layer reads looked-up rows directly", where="first_layer='fused'", fix="first_layer='plain'"
        )
    passes.RemoveUnusedNodesPass()(model)
    return fused


def _fuse(graph: ir.Graph, gemm: ir.Node, tables: Collection[str], *, int8: bool) -> bool:
    x, weight, bias = gemm.inputs
    assert x is not None
    assert weight is not None
    assert bias is not None
    if bias.shape is None or bias.shape.dims[:-1] not in ((), (1,)):
        return False
    pieces = _pieces(x)
    lookup = pieces[0].value.producer() if pieces else None
    if lookup is None or lookup.op_type != "Lookup" or lookup.domain != DOMAIN or table_of(lookup) not in tables:
        return False
    ids = lookup.inputs[1]
    if ids is None or ids.shape is None or len(ids.shape) != 2 or not isinstance(columns := ids.shape[1], int):
        return False
    first, total = pieces[0].width, sum(piece.width for piece in pieces)
    relu = None if pieces[1:] else _only_relu(gemm)
    given = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
    fields = {name: values if len(values) == columns else [*values] * columns for name, values in given.items()}
    forms = [quantized_form(first // columns), SCALES] if int8 else [PANELS]
    weights, *scales = (part_of(graph, weight, range(first), form) for form in forms)
    inputs = [*lookup.inputs, weights, bias, *scales]
    nodes = [ir.node("LookupLinear", inputs, fields | {"relu": int(relu is not None)}, domain=DOMAIN)]
    if pieces[1:]:
        flattened, rest = _side_by_side(pieces[1:])
        others = part_of(graph, weight, range(first, total))
        added = ir.node("Gemm", [rest, others, nodes[0].outputs[0]], {"transB": 1})
        nodes += [*flattened, added]
    old = gemm if relu is None else relu
    for new in nodes:
        new.metadata_props.update(gemm.metadata_props)
    replace_value(graph, old.outputs[0], nodes[-1].outputs[0], nodes)
    return True


def _only_relu(gemm: ir.Node) -> ir.Node | None:
    """The Relu behind a layer, if it is all that reads it."""
    users = [use.node for use in gemm.outputs[0].uses()]
    alone = len(users) == 1 and users[0].op_type == "Relu" and not gemm.outputs[0].is_graph_output()
    return users[0] if alone else None


def _pieces(value: ir.Value) -> list[_Piece]:
    """What a `[B, columns]` value was put together from, in order; empty where a width is not known."""
    node = value.producer()
    if node is not None and node.op_type == "Concat" and _rank(value) == 2:
        parts = [_pieces(part) for part in node.inputs if part is not None]
        return [piece for part in parts for piece in part] if all(parts) else []
    if node is not None and node.op_type == "Reshape" and _rank(value) == 2:
        source = node.inputs[0]
        if source is not None and _rank(source) == 3 and _columns(source) == _columns(value):
            inner = source.producer()
            side_by_side = inner is not None and inner.op_type == "Concat" and inner.attributes["axis"].as_int() == 1
            parts3 = list(inner.inputs) if side_by_side and inner is not None else [source]
            pieces = [_Piece(part, _columns(part)) for part in parts3 if part is not None]
            return pieces if all(piece.width for piece in pieces) else []
    width = _columns(value)
    return [_Piece(value, width)] if width else []


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)


def _columns(value: ir.Value) -> int:
    """Product of all dimensions but the first; 0 if one is not known."""
    if value.shape is None:
        return 0
    sizes = [size if isinstance(size, int) else 0 for size in value.shape.dims[1:]]
    return int(np.prod(sizes))


def _side_by_side(pieces: list[_Piece]) -> tuple[list[ir.Node], ir.Value]:
    """Nodes that put the remaining columns side by side, and the result."""
    nodes: list[ir.Node] = []
    flat = []
    for piece in pieces:
        if _rank(piece.value) == 2:
            flat.append(piece.value)
            continue
        nodes.append(ir.node("Flatten", [piece.value], {"axis": 1}))
        flat.append(nodes[-1].outputs[0])
    if len(flat) == 1:
        return nodes, flat[0]
    nodes.append(ir.node("Concat", flat, {"axis": 1}))
    return nodes, nodes[-1].outputs[0]
