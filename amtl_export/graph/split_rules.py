"""How each operator computes with values in halves, where every one of them has both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from amtl_export.graph.halves import Halves, Kept, Split, is_row, rows_of
from amtl_export.graph.rewrite import constant_ints, is_constant, is_linear, rank, sizes, width

Hoisted = Split | ir.Value | Kept


def elementwise(halves: Halves, node: ir.Node) -> Hoisted:
    """Each half by itself; or the request's row against all candidates."""
    split = [halves.of[value] for value in node.inputs if value in halves.of]
    whole = [value for value in node.inputs if value is not None and value not in halves.of]
    constant = all(is_constant(value) for value in whole)
    if not constant and all(half.candidates is None for half in split):
        return halves.again(node, [halves.half(value, request=True) for value in node.inputs])
    axes = rank(node.outputs[0])
    if not constant or not _alike(split, axes):
        return Kept("it computes with columns of the request and of the candidates that do not lie alike")
    if not all(is_row(value, axes) for value in whole):
        return Kept("its constant is not one row for all candidates")

    def compute(half: ir.Value, columns: list[int]) -> ir.Value:
        request = half is split[0].request
        inputs = [
            halves.half(v, request=request) if v is None or v in halves.of else halves.columns(v, columns)
            for v in node.inputs
        ]
        return halves.again(node, inputs, rows_of(half), len(columns))

    return halves.both(split[0], compute)


def _alike(split: Sequence[Split], axes: int) -> bool:
    """Whether values are cut into halves in the same places, each with both halves and as many axes."""
    cuts = {(half.order, width(half.request), rank(half.request), half.candidates is None) for half in split}
    return len(cuts) == 1 and split[0].candidates is not None and rank(split[0].request) == axes


def lookup(halves: Halves, node: ir.Node) -> Hoisted:
    """Rows of the request's ids, and of the candidates'."""
    rows, ids = node.inputs
    if ids not in halves.of or rows in halves.of:
        return Kept("the matrix that it looks ids up in differs between the candidates")
    assert ids is not None
    if rank(ids) != 2:
        return Kept("its ids have more axes than two")
    given = {name: node.attributes[name].as_ints() for name in ("sizes", "offsets")}

    def look_up(half: ir.Value, columns: list[int]) -> ir.Value:
        fields = {name: [v[i] for i in columns] if len(v) > 1 else list(v) for name, v in given.items()}
        about = dict(node.metadata_props)
        new = ir.node(node.op_type, [rows, half], fields, domain=node.domain, metadata_props=about)
        return halves.add(new, node.outputs[0], rows_of(half), len(columns))

    return halves.both(halves.of[ids], look_up)


def concat(halves: Halves, node: ir.Node) -> Hoisted:
    """Side by side on axis 1: the request's columns and the candidates' each by themselves."""
    values = [value for value in node.inputs if value is not None]
    axis = node.attributes["axis"].as_int() % max(1, rank(node.outputs[0]))
    if axis != 1 or not all(width(value) for value in values):
        return Kept("it puts values side by side on another axis than 1, or of unknown width")
    parts = [halves.of.get(value) or value for value in values]
    request = [part.request for part in parts if isinstance(part, Split)]
    others = [part.candidates if isinstance(part, Split) else part for part in parts]
    candidates = [value for value in others if value is not None]
    if not candidates:
        return Kept("what it puts side by side is the request's alone, and cannot be computed for it alone")
    both = [
        side[0] if len(side) == 1 else halves.again(node, side, rows, sum(map(width, side)))
        for side, rows in ((request, 1), (candidates, None))
    ]
    return Split(both[0], both[1], _order(parts))


def _order(parts: Sequence[Split | ir.Value]) -> tuple[int, ...]:
    """Where each column of values side by side is in [all of the request, all of the candidates]."""
    order: list[int] = []
    begin_request, begin_candidates = 0, sum(width(part.request) for part in parts if isinstance(part, Split))
    for part in parts:
        of_request = width(part.request) if isinstance(part, Split) else 0
        others = part.candidates if isinstance(part, Split) else part
        of_candidates = 0 if others is None else width(others)
        positions = part.order if isinstance(part, Split) and part.order else range(of_request + of_candidates)
        order += [begin_request + i if i < of_request else begin_candidates + i - of_request for i in positions]
        begin_request, begin_candidates = begin_request + of_request, begin_candidates + of_candidates
    return tuple(order)


def reshape(halves: Halves, node: ir.Node) -> Hoisted:
    """`[B, K, D]` to `[B, K · D]`."""
    value = node.inputs[0]
    assert value is not None
    known = sizes(value)
    flat = len(known) == 3 and known[2] and sizes(node.outputs[0])[1:] == (known[1] * known[2],)
    if not flat or not known[1]:
        return Kept(f"it makes {_shown(node.outputs[0])} of {_shown(value)}; [B, K, D] to [B, K · D] can be split")

    def flatten(half: ir.Value, columns: list[int]) -> ir.Value:
        total = len(columns) * known[2]
        new = ir.node("Reshape", [half, halves.ints([-1, total])], metadata_props=dict(node.metadata_props))
        return halves.add(new, node.outputs[0], rows_of(half), total)

    split = halves.of[value]
    order = (column * known[2] + i for column in split.order for i in range(known[2]))
    return replace(halves.both(split, flatten), order=tuple(order))


def gather(halves: Halves, node: ir.Node) -> Hoisted:
    """Columns in another order, or one column."""
    value, index = node.inputs
    positions = None if index is None else ir.convenience.get_const_tensor(index)
    if positions is None or node.attributes["axis"].as_int() != 1 or value not in halves.of:
        return Kept("it takes other things than columns of axis 1")
    assert value is not None
    split, wanted = halves.of[value], positions.numpy()
    if wanted.ndim == 1 and sorted(wanted.tolist()) == list(range(len(split.order))):
        return Split(split.request, split.candidates, tuple(split.order[i] for i in wanted))
    if wanted.ndim != 0:
        return Kept("it takes some of the columns; all of them, or one, can be split")
    column, of_request = split.order[int(wanted)], width(split.request)
    if column < of_request:
        return Split(halves.again(node, [split.request, halves.number(column)], 1))
    return halves.again(node, [split.candidates, halves.number(column - of_request)])


def gemm(halves: Halves, node: ir.Node) -> Hoisted:
    """W · [u, c] + b = W_c · c + (W_u · u + b)."""
    x, weight, *bias = node.inputs
    if not is_linear(node) or x not in halves.of or not all(map(is_constant, bias)):
        return Kept("it is no x · Wᵀ + b with constants W and b")
    assert weight is not None
    assert x is not None
    split = halves.of[x]
    ours, theirs = halves.weight_columns(weight, split)
    share = halves.again(node, [split.request, ours, *bias], 1)
    return halves.again(node, [split.candidates, theirs, share])


def matmul(halves: Halves, node: ir.Node) -> Hoisted:
    """`[B, K, D]` times a constant `[D, E]`: each half by itself."""
    x, weight = node.inputs
    if x not in halves.of or rank(x) != 3 or not is_constant(weight) or rank(weight) != 2:
        return Kept("it is no product of [B, K, D] and a constant [D, E]")
    assert x is not None
    return halves.both(
        halves.of[x], lambda half, columns: halves.again(node, [half, weight], rows_of(half), len(columns))
    )


def reduce_sum(halves: Halves, node: ir.Node) -> Hoisted:
    """The sum over the columns: the candidates' plus the request's."""
    x, axes = (*node.inputs, None)[:2]
    if x is None or [axis % max(1, rank(x)) for axis in constant_ints(axes) or []] != [1]:
        return Kept("it sums over other axes than 1")
    ours = halves.again(node, [halves.of[x].request, axes], 1)
    theirs = halves.again(node, [halves.of[x].candidates, axes])
    return halves.add(ir.node("Add", [theirs, ours], metadata_props=dict(node.metadata_props)), node.outputs[0])


def _shown(value: ir.Value) -> str:
    return f"[{', '.join(map(str, value.shape or ()))}]"


#: Operator → what is done where every value in halves has both.
RULES: dict[str, Callable[[Halves, ir.Node], Hoisted]] = {
    "Lookup": lookup,
    "Reshape": reshape,
    "Flatten": reshape,
    "Gather": gather,
    "Gemm": gemm,
    "MatMul": matmul,
    "ReduceSum": reduce_sum,
}
