"""What stands side by side in a row that a layer multiplies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from amtl_export.graph.rewrite import rank, sizes

#: Operators that leave the numbers of an example as they are, in their order, where its number of them stays.
_MOVES = frozenset({"Reshape", "Flatten", "Unsqueeze", "Squeeze", "Identity"})


@dataclass(frozen=True)
class Piece:
    """Some neighbouring columns of what a layer multiplies.

    Attributes:
        value: `[B, width]`, or `[B, …]` to be flattened.
        width: columns.
    """

    value: ir.Value
    width: int


def pieces_of(value: ir.Value) -> list[Piece]:
    """What a `[B, …]` value was put together from, in order; empty where a width is not known."""
    node = value.producer()
    if node is not None and node.domain == "" and (parts := _parts(node, value)):
        found = [pieces_of(part) for part in parts]
        return [piece for pieces in found for piece in pieces] if all(found) else []
    columns = _columns(value)
    return [Piece(value, columns)] if columns else []


def puts_together(node: ir.Node) -> bool:
    """Whether a node leaves numbers as they are, in their order or beside others."""
    return node.domain == "" and (node.op_type == "Concat" or node.op_type in _MOVES)


def _parts(node: ir.Node, value: ir.Value) -> list[ir.Value]:
    """The values whose numbers a node puts side by side for each example; none if it does something else."""
    if node.op_type == "Concat" and rank(value) > 1 and node.attributes["axis"].as_int() % rank(value) == 1:
        return [part for part in node.inputs if part is not None]
    source = node.inputs[0] if node.op_type in _MOVES else None
    return [source] if source is not None and _same_rows(source, value) else []


def _same_rows(source: ir.Value, value: ir.Value) -> bool:
    """Whether two values have the same examples with as many numbers each."""
    if source.shape is None or value.shape is None or rank(source) < 2 or rank(value) < 1:
        return False
    return source.shape[0] == value.shape[0] and 0 < _columns(source) == _columns(value)


def _columns(value: ir.Value) -> int:
    """Product of all dimensions but the first; 0 if one is not known."""
    return math.prod(sizes(value)[1:]) if rank(value) > 0 else 0


def side_by_side(pieces: Sequence[Piece]) -> tuple[list[ir.Node], ir.Value]:
    """Nodes that put pieces side by side as `[B, columns]`, and the result."""
    flat = [_flattened(piece) for piece in pieces if rank(piece.value) != 2]
    flattened = iter(flat)
    values = [piece.value if rank(piece.value) == 2 else next(flattened).outputs[0] for piece in pieces]
    if len(values) == 1:
        return flat, values[0]
    together = ir.node("Concat", values, {"axis": 1})
    _shape(together.outputs[0], pieces[0].value, sum(piece.width for piece in pieces))
    return [*flat, together], together.outputs[0]


def _flattened(piece: Piece) -> ir.Node:
    node = ir.node("Flatten", [piece.value], {"axis": 1})
    _shape(node.outputs[0], piece.value, piece.width)
    return node


def _shape(value: ir.Value, like: ir.Value, columns: int) -> None:
    value.type = like.type
    if like.shape is not None:
        value.shape = ir.Shape([like.shape[0], columns])
