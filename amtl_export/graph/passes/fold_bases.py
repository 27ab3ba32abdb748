"""Fold bases into what reads the rows: `Lookup → Decode → … → Gemm` becomes `Lookup → … → Gemm` with another weight.

A Decode makes rows e = z · basis of coordinates z. It commutes with whatever treats all numbers of a row alike. So it
is moved behind sums and means over rows, masks, weights of rows and reshapes first. What is left then:

- a linear layer reads the rows, W · e = (W · basisᵀ) · z: the basis becomes part of its weight;
- products of rows in one orthonormal basis (FM) are those of their coordinates: nothing is left of the basis;
- the pairs of rows in several bases (FM, added up) are a quadratic form of their coordinates, of one small matrix;
- anything else reads decoded rows: the Decode stays, one matrix for each field.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.coordinates import dots, sunk
from amtl_export.graph.facts import CONSTANT, WEIGHT, fact
from amtl_export.graph.pairs import rows_of_pairs
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, is_op, require_unlowered
from amtl_export.graph.pieces import Piece, pieces_of, side_by_side
from amtl_export.graph.rewrite import constant_ints, initializer, is_linear, rank, replace_value, sizes
from amtl_export.graph.segments import Segment
from amtl_export.graph.weights import folded_weight, pairs_weight

#: Multiply-adds of a matrix product that take as long as writing a number of a row, squaring it and adding it up.
_DECODED = 50


class FoldBases(GraphPass):
    """Take every Decode out that something behind it can take over.

    requires: no lookup is lowered; layers are Gemms (`StateLinearLayers`).
    ensures: no linear layer of constant weight reads decoded rows.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        if not any(is_custom(node, "Decode") for node in model.graph):
            return ir.passes.PassResult(model, False)
        before = len(decodes(model))
        sink(model)
        for node in list(model.graph):
            if is_linear(node) and (segments := _segments(node.inputs[0])):
                _fold(model.graph, node, segments)
        common.RemoveUnusedNodesPass()(model)
        for node in list(model.graph):
            dots(model.graph, node)
        common.RemoveUnusedNodesPass()(model)
        for node in list(model.graph):
            _fold_pairs(model.graph, node)
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, len(decodes(model)) != before)

    def requires(self, model: ir.Model) -> None:
        """No lookup is lowered."""
        require_unlowered(model)

    def ensures(self, model: ir.Model) -> None:
        """No layer reads decoded rows."""
        readers = (node for node in model.graph if is_linear(node) and _segments(node.inputs[0]))
        ensure_none(readers, "layers that read decoded rows")


def decodes(model: ir.Model) -> list[ir.Node]:
    """The Decode nodes of a graph."""
    return [node for node in custom_nodes(model) if node.op_type == "Decode"]


def sink(model: ir.Model) -> None:
    """Move every Decode as far down as it goes."""
    waiting = decodes(model)
    while waiting:
        decode = waiting.pop()
        for use in list(decode.outputs[0].uses()):
            waiting += sunk(model.graph, decode, use.node)


def _segments(value: ir.Value | None) -> list[tuple[Piece, Segment]]:
    """What stands side by side in a value, where decoded rows are among it; else nothing."""
    assert value is not None
    found = [(piece, _segment(piece)) for piece in pieces_of(value)]
    return found if any(segment.bases for _, segment in found) else []


def _segment(piece: Piece) -> Segment:
    decode = piece.value.producer()
    if decode is None or not is_custom(decode, "Decode"):
        return Segment(piece.width)
    bases, fields = decode.inputs[1], tuple(decode.attributes["fields"].as_ints())
    name = fact(bases, WEIGHT)
    if bases is None or name is None:
        return Segment(piece.width)
    rows = piece.width // sizes(bases)[2]  # of columns `[…, K]`, the last axis fastest
    return Segment(piece.width, name, fields * (rows // len(fields)))


def _fold(graph: ir.Graph, gemm: ir.Node, segments: list[tuple[Piece, Segment]]) -> None:
    """Let a layer multiply coordinates."""
    weight, *bias = gemm.inputs[1:]
    assert weight is not None
    pieces = list(_coordinates(segments))
    nodes, together = side_by_side(pieces)
    new = ir.node("Gemm", [together, folded_weight(graph, weight, [own for _, own in segments]), *bias], {"transB": 1})
    for node in (*nodes, new):
        node.metadata_props.update(gemm.metadata_props)
    replace_value(graph, gemm.outputs[0], new.outputs[0], [*nodes, new])


def _coordinates(segments: list[tuple[Piece, Segment]]) -> Iterator[Piece]:
    for piece, segment in segments:
        decode = piece.value.producer()
        if not segment.bases or decode is None:
            yield piece
            continue
        z, bases = decode.inputs[:2]
        assert z is not None
        assert bases is not None
        yield Piece(z, len(segment.fields) * sizes(bases)[1])


def _fold_pairs(graph: ir.Graph, total: ir.Node) -> None:
    """Let a sum over the numbers of pairs, `Σ ((Σ rows)² - Σ rows²)`, be z · M · zᵀ where that is cheaper."""
    value = total.inputs[0] if is_op(total, "ReduceSum") and len(total.inputs) == 2 else None
    pairs = None if value is None else value.producer()
    rows = None if pairs is None else rows_of_pairs(pairs)
    if rows is None or value is None or constant_ints(total.inputs[1]) not in ([-1], [rank(value) - 1]):
        return
    segments = _segments(rows)
    if not segments or not _cheaper(segments, sizes(rows)[1:]):
        return
    nodes, z = side_by_side(list(_coordinates(segments)))
    product = ir.node("MatMul", [z, pairs_weight(graph, [own for _, own in segments])])
    squared = ir.node("Mul", [product.outputs[0], z])
    for own in (product, squared):
        own.outputs[0].type, own.outputs[0].shape = z.type, z.shape
    result = total.outputs[0]
    axis = initializer(graph, "pairs/axis", np.array([1], dtype=np.int64), {CONSTANT: "yes"})
    nodes += [product, squared, ir.node("ReduceSum", [squared.outputs[0], axis], {"keepdims": int(rank(result) > 1)})]
    if rank(result) == 3:
        nodes[-1].outputs[0].type = z.type
        nodes.append(ir.node("Unsqueeze", [nodes[-1].outputs[0], axis]))
    for own in nodes:
        own.metadata_props.update(total.metadata_props)
    replace_value(graph, result, nodes[-1].outputs[0], nodes)


def _cheaper(segments: list[tuple[Piece, Segment]], shape: tuple[int, ...]) -> bool:
    """Whether a product with M costs less than decoding rows `[K, D]`, squaring them and adding them up."""
    columns = sum(piece.width for piece in _coordinates(segments))
    return columns * columns <= (columns + _DECODED * shape[0]) * shape[1]
