"""Rules for Decode nodes, e = z · basis: which operators a Decode may be moved behind, and products that need none.

An operator that treats all numbers of a row alike gives the same whether it works on rows and they are decoded then, or
on coordinates: f(z) · basis = f(z · basis).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import CONSTANT
from amtl_export.graph.passes.base import is_custom, is_op
from amtl_export.graph.rewrite import constant_ints, initializer, is_constant, rank, replace_value, sizes
from amtl_export.native import DOMAIN

#: How far basis · basisᵀ may be from the identity for products of coordinates to stand for those of rows.
_ORTHONORMAL = 1e-5


def sunk(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Move a Decode behind one of its readers; the new ones, none where it may not be moved."""
    rule = _RULES.get(reader.op_type) if reader.domain == "" else None
    if rule is None or decode.inputs[0] is None or decode.outputs[0] not in reader.inputs:
        return []
    return rule(graph, decode, reader)


def _moved(
    graph: ir.Graph, decode: ir.Node, reader: ir.Node, inputs: Sequence[ir.Value | None], fields: Sequence[int]
) -> list[ir.Node]:
    """The reader on coordinates, and a Decode behind it."""
    z, bases = decode.inputs[:2]
    assert z is not None
    assert bases is not None
    old = reader.outputs[0]
    new = ir.Node("", reader.op_type, inputs, list(reader.attributes.values()))
    new.metadata_props.update(reader.metadata_props)
    new.outputs[0].type = old.type
    assert old.shape is not None
    new.outputs[0].shape = ir.Shape([*old.shape.dims[:-1], sizes(bases)[1]])
    behind = ir.node("Decode", [new.outputs[0], bases], {"fields": list(fields)}, domain=DOMAIN)
    behind.metadata_props.update(decode.metadata_props)
    replace_value(graph, old, behind.outputs[0], [new, behind])
    return [behind]


def _fields(decode: ir.Node) -> tuple[int, ...]:
    """The basis of each column; one where all are alike."""
    fields = tuple(decode.attributes["fields"].as_ints())
    return fields[:1] if len(set(fields)) == 1 else fields


def _with_coordinates(decode: ir.Node, reader: ir.Node) -> list[ir.Value | None]:
    """The reader's inputs, coordinates instead of rows."""
    return [decode.inputs[0] if value is decode.outputs[0] else value for value in reader.inputs]


def _reduced(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """ReduceSum and ReduceMean over other axes than the numbers of a row, and than columns of different bases."""
    axes, axes_known = _axes(reader)
    last = rank(decode.outputs[0]) - 1
    behind = last - 1 if len(_fields(decode)) > 1 else last
    if not axes_known or not axes or reader.outputs[0].shape is None:
        return []
    if any(axis % (last + 1) >= behind for axis in axes):
        return []
    return _moved(graph, decode, reader, _with_coordinates(decode, reader), _fields(decode))


def _axes(reader: ir.Node) -> tuple[list[int], bool]:
    """Axes that a node names as its second input; whether they are known."""
    if len(reader.inputs) < 2 or reader.inputs[1] is None:
        return [], False
    axes = constant_ints(reader.inputs[1])
    return axes or [], axes is not None


def _scaled(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Mul and Div by one number for each row, or for all."""
    rows = decode.outputs[0]
    others = [value for value in reader.inputs if value is not None and value is not rows]
    if len(others) != 1 or (reader.op_type == "Div" and reader.inputs[0] is not rows):
        return []
    if not _same_for_a_row(others[0], rows) or rank(reader.outputs[0]) != rank(rows):
        return []
    return _moved(graph, decode, reader, _with_coordinates(decode, reader), _fields(decode))


def _same_for_a_row(other: ir.Value, rows: ir.Value) -> bool:
    """Whether a value that is broadcast to rows has one number for each of them."""
    if rank(other) == 0 or (is_constant(other) and set(sizes(other)) <= {1}):
        return rank(other) <= rank(rows)
    return 0 < rank(other) <= rank(rows) and sizes(other)[-1] == 1 and _fits(other, rows)


def _fits(other: ir.Value, rows: ir.Value) -> bool:
    """Whether no axis of the rows is 1 where the other value's is not."""
    assert other.shape is not None
    assert rows.shape is not None
    ends = zip(reversed(other.shape.dims), reversed(rows.shape.dims), strict=False)
    return all(size == 1 or size == of_rows for size, of_rows in ends)


def _masked(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Where(mask, rows, 0), the mask one for each row."""
    mask, yes, no = reader.inputs[:3]
    rows = decode.outputs[0]
    zero = no if yes is rows else yes
    if mask is None or zero is None or not _is_zero(zero) or not _same_for_a_row(mask, rows) or not _fits(zero, rows):
        return []
    if rank(reader.outputs[0]) != rank(rows):
        return []
    single = initializer(graph, "coordinates/zero", np.zeros((), np.float32), {CONSTANT: "yes"})
    inputs = [mask, decode.inputs[0], single] if yes is rows else [mask, single, decode.inputs[0]]
    return _moved(graph, decode, reader, inputs, _fields(decode))


def _is_zero(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and not np.any(tensor.numpy())


def _weighted(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Weights · rows, `[…, 1, L]` by `[…, L, D]`: attention that adds rows up."""
    if reader.inputs[1] is not decode.outputs[0] or reader.inputs[0] is decode.outputs[0] or len(_fields(decode)) > 1:
        return []
    if rank(reader.outputs[0]) != rank(decode.outputs[0]) or rank(decode.outputs[0]) < 3:
        return []
    return _moved(graph, decode, reader, _with_coordinates(decode, reader), _fields(decode))


def _reshaped(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Reshape, Squeeze and Unsqueeze that leave rows whole."""
    rows, old = decode.outputs[0], reader.outputs[0]
    D, fields = sizes(rows)[-1], _fields(decode)
    if not D or old.shape is None or not sizes(old) or sizes(old)[-1] != D or len(fields) > 1:
        return []
    if reader.op_type in ("Squeeze", "Unsqueeze"):
        axes, known = _axes(reader)
        last = rank(rows if reader.op_type == "Squeeze" else old) - 1
        if not known or not axes or any(axis % (last + 1) == last for axis in axes):
            return []
        return _moved(graph, decode, reader, _with_coordinates(decode, reader), fields)
    shape, bases = constant_ints(reader.inputs[1]), decode.inputs[1]
    if shape is None or bases is None or (shape[-1] == -1 and 0 in sizes(rows)[:-1] and len(shape) < 2):
        return []
    wanted = [*shape[:-1], sizes(bases)[1]]
    name = f"shape/{'_'.join(map(str, wanted))}"
    value = initializer(graph, name, np.array(wanted, dtype=np.int64), {CONSTANT: "yes"})
    return _moved(graph, decode, reader, [decode.inputs[0], value], fields)


def _chosen(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Gather of some columns of `[…, K, D]`, by constant positions."""
    rows, fields = decode.outputs[0], _fields(decode)
    positions = None if reader.inputs[1] is None else ir.convenience.get_const_tensor(reader.inputs[1])
    axis = reader.attributes["axis"].as_int() if "axis" in reader.attributes else 0
    if positions is None or rank(rows) < 2 or axis % rank(rows) == rank(rows) - 1:
        return []
    if axis % rank(rows) == rank(rows) - 2 and len(fields) > 1:
        fields = tuple(fields[int(i)] for i in np.atleast_1d(positions.numpy()).ravel())
        if positions.numpy().ndim > 1:
            return []
    return _moved(graph, decode, reader, _with_coordinates(decode, reader), fields)


def _sliced(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Slice of columns of `[…, K, D]`, or of other axes than the numbers of a row."""
    rows, fields = decode.outputs[0], _fields(decode)
    bounds = [constant_ints(value) for value in reader.inputs[1:]]
    if len(bounds) < 3 or any(own is None or len(own) != 1 for own in bounds):
        return []
    begin, end, axis, *step = (own[0] for own in bounds if own)
    if axis % rank(rows) == rank(rows) - 1:
        return []
    if axis % rank(rows) == rank(rows) - 2 and len(fields) > 1:
        fields = fields[begin : end : step[0] if step else 1]
    return _moved(graph, decode, reader, _with_coordinates(decode, reader), fields) if fields else []


def _parted(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Split of columns of `[…, K, D]`, or of other axes than the numbers of a row."""
    rows, bases, fields, parts = decode.outputs[0], decode.inputs[1], _fields(decode), reader.outputs
    axis = reader.attributes["axis"].as_int() % rank(rows) if "axis" in reader.attributes else 0
    known = all(part.shape is not None and sizes(part)[axis] for part in parts)
    if bases is None or not known or axis == rank(rows) - 1 or any(part.is_graph_output() for part in parts):
        return []
    inputs = _with_coordinates(decode, reader)
    new = ir.Node("", "Split", inputs, list(reader.attributes.values()), num_outputs=len(parts))
    new.metadata_props.update(reader.metadata_props)
    behind, begin = [], 0
    for part, z in zip(parts, new.outputs, strict=True):
        assert part.shape is not None
        z.type, z.shape = part.type, ir.Shape([*part.shape.dims[:-1], sizes(bases)[1]])
        columns = sizes(part)[axis]
        own = fields[begin : begin + columns] if axis == rank(rows) - 2 and len(fields) > 1 else fields
        behind.append(ir.node("Decode", [z, bases], {"fields": list(own)}, domain=DOMAIN))
        behind[-1].metadata_props.update(decode.metadata_props)
        behind[-1].outputs[0].type, behind[-1].outputs[0].shape = part.type, part.shape
        begin += columns
    graph.insert_before(reader, [new, *behind])
    ir.convenience.replace_all_uses_with(list(parts), [own.outputs[0] for own in behind])
    graph.remove(reader, safe=True)
    return behind


def _together(graph: ir.Graph, decode: ir.Node, reader: ir.Node) -> list[ir.Node]:
    """Concat of columns `[…, K, D]` that are all decoded by the same bases."""
    makers = [None if value is None else value.producer() for value in reader.inputs]
    bases, rows = decode.inputs[1], decode.outputs[0]
    if any(own is None or not is_custom(own, "Decode") or not _same(own.inputs[1], bases) for own in makers):
        return []
    if rank(rows) < 3 or reader.attributes["axis"].as_int() % rank(rows) != rank(rows) - 2:
        return []
    known = [own for own in makers if own is not None]
    fields: list[int] = []
    for own in known:
        columns = sizes(own.outputs[0])[-2]
        single = _fields(own)
        if not columns and len({_fields(each) for each in known}) > 1:
            return []
        fields += single if len(single) > 1 else single * max(columns, 1)
    alike = fields[:1] if len(set(fields)) == 1 else fields
    return _moved(graph, decode, reader, [own.inputs[0] for own in known], alike)


_RULES: dict[str, Callable[[ir.Graph, ir.Node, ir.Node], list[ir.Node]]] = {
    "ReduceSum": _reduced,
    "ReduceMean": _reduced,
    "Mul": _scaled,
    "Div": _scaled,
    "Where": _masked,
    "MatMul": _weighted,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Gather": _chosen,
    "Slice": _sliced,
    "Split": _parted,
    "Concat": _together,
}


def dots(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a sum over the numbers of rows, of products of rows in one orthonormal basis, be that of their coordinates.

    ⟨z₁ · basis, z₂ · basis⟩ = ⟨z₁, z₂⟩. Sums, differences and multiples of such products may stand between.
    """
    if not is_op(node, "ReduceSum"):
        return False
    value = node.inputs[0]
    axes, known = _axes(node)
    if not known or value is None or rank(value) < 2 or not sizes(value)[-1]:
        return False
    if [axis % rank(value) for axis in axes] != [rank(value) - 1]:
        return False
    nodes: list[ir.Node] = []
    made = _products(value, nodes)
    if made is None:
        return False
    new = ir.Node("", "ReduceSum", [made, node.inputs[1]], list(node.attributes.values()))
    new.metadata_props.update(node.metadata_props)
    replace_value(graph, node.outputs[0], new.outputs[0], [*nodes, new])
    return True


def _products(value: ir.Value, nodes: list[ir.Node]) -> ir.Value | None:
    """The same sums of products, of coordinates; None where a value is something else."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Pow" and _is_two(node.inputs[1]) and (pair := _coordinates([node.inputs[0], node.inputs[0]])):
        return _again(node, [pair[0], node.inputs[1]], nodes, pair[0])
    if node.op_type == "Mul" and (pair := _coordinates(node.inputs)):
        return _again(node, pair, nodes, pair[0])
    return _combined(node, nodes)


def _combined(node: ir.Node, nodes: list[ir.Node]) -> ir.Value | None:
    """A linear combination of products, of other axes than the last."""
    kept: list[ir.Value | None] = list(node.inputs)
    if node.op_type in ("Add", "Sub"):
        which = [0, 1]
    elif node.op_type in ("Mul", "Div"):
        which = [i for i, own in enumerate(kept) if own is not None and not is_constant(own)]
        if len(which) != 1 or (node.op_type == "Div" and which != [0]) or not _is_number(kept[1 - which[0]]):
            return None
    elif node.op_type in ("ReduceSum", "ReduceMean"):
        axes, known = _axes(node)
        last = rank(kept[0]) - 1
        if not known or not axes or last < 0 or any(axis % (last + 1) == last for axis in axes):
            return None
        which = [0]
    else:
        return None
    for position in which:
        own = kept[position]
        made = None if own is None else _products(own, nodes)
        if made is None:
            return None
        kept[position] = made
    widths = {sizes(value)[-1] for i in which if (value := kept[i]) is not None}
    return _again(node, kept, nodes, kept[which[0]]) if len(widths) == 1 else None


def _again(node: ir.Node, inputs: Sequence[ir.Value | None], nodes: list[ir.Node], like: ir.Value | None) -> ir.Value:
    new = ir.Node("", node.op_type, inputs, list(node.attributes.values()))
    new.metadata_props.update(node.metadata_props)
    old = node.outputs[0]
    new.outputs[0].type = old.type
    if old.shape is not None and like is not None and like.shape is not None:
        new.outputs[0].shape = ir.Shape([*old.shape.dims[:-1], like.shape[-1]])
    nodes.append(new)
    return new.outputs[0]


def _is_number(value: ir.Value | None) -> bool:
    return value is not None and set(sizes(value)) <= {1}


def _is_two(value: ir.Value | None) -> bool:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.numpy().size == 1 and float(tensor.numpy().ravel()[0]) == 2.0


def _coordinates(pair: Sequence[ir.Value | None]) -> list[ir.Value] | None:
    """The coordinates of two values of rows in one orthonormal basis."""
    makers = [None if value is None else value.producer() for value in pair]
    found = [own for own in makers if own is not None and is_custom(own, "Decode") and len(_fields(own)) == 1]
    if len(found) != 2 or not _same(found[0].inputs[1], found[1].inputs[1]) or _fields(found[0]) != _fields(found[1]):
        return None
    if not _orthonormal(found[0]):
        return None
    coordinates = [own.inputs[0] for own in found]
    return [value for value in coordinates if value is not None]


def _same(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two constants are one, or equal."""
    if a is b or a is None or b is None:
        return a is b
    pair = [ir.convenience.get_const_tensor(value) for value in (a, b)]
    arrays = [tensor.numpy() for tensor in pair if tensor is not None]
    return len(arrays) == 2 and np.array_equal(arrays[0], arrays[1])


def _orthonormal(decode: ir.Node) -> bool:
    assert decode.inputs[1] is not None
    tensor = ir.convenience.get_const_tensor(decode.inputs[1])
    if tensor is None:
        return False
    basis = tensor.numpy()[_fields(decode)[0]].astype(np.float64)
    return bool(np.abs(basis @ basis.T - np.eye(len(basis))).max(initial=0.0) <= _ORTHONORMAL)
