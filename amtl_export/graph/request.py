"""Hoist what depends on the request alone: compute it once, not for each candidate.

requires: a model from `trace` with inputs `[1, …]`, each repeated by an Expand to one row for each candidate, before
anything is fused or lowered.
ensures: the graph answers the same up to the order of sums. A value that was put together from columns of the request
and columns of the candidates is kept as two halves for as long as the algebra allows: rows are looked up, numbers
normalised and products taken in each half alone. Where they meet,

    W · [u, c] + b = W_c · c + (W_u · u + b),      sum over [u, c] = sum over c + sum over u,

so a first layer, a cross layer and FM's sums have the request's share computed once, `[1, …]`. What reads both in any
other way reads the halves put together again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.graph.rewrite import initializer, is_linear, replace_value
from amtl_export.graph.weights import part_of

#: Operators that compute each number from the numbers at its position.
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Clip", "Div", "Equal", "Exp", "Greater", "GreaterOrEqual", "IsNaN", "Less"}
    | {"LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Relu", "Sigmoid", "Sign", "Sqrt"}
    | {"Sub", "Tanh", "Where"}
)
#: Operators that compute each row of a batch from that row, if the result has a row for each.
_ROWWISE = _ELEMENTWISE | {
    *("Concat", "Flatten", "Gather", "Gemm", "Lookup", "MatMul", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape"),
    *("Slice", "Softmax", "Squeeze", "Transpose", "Unsqueeze"),
}


@dataclass(frozen=True)
class _Split:
    """A value of one row for each candidate, not yet put together.

    Attributes:
        request: the request's half, `[1, …]`.
        candidates: the candidates' half, `[B, …]`; None if the value is `request`, repeated.
        order: for each position on axis 1 where it is in [request, candidates], side by side; empty without the latter.
    """

    request: ir.Value
    candidates: ir.Value | None = None
    order: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[list[int], list[int]]:
        """Where on axis 1 the columns of `request` are, and of `candidates`."""
        where = {column: position for position, column in enumerate(self.order)}
        width = _width(self.request)
        return [where[i] for i in range(width)], [where[i] for i in range(width, len(self.order))]


def hoist_request(model: ir.Model, request_inputs: Sequence[str]) -> None:
    """Rewrite in place.

    Args:
        model: from `trace`.
        request_inputs: names of the inputs that have one row for the whole request.
    """
    if not request_inputs:
        return
    graph = model.graph
    batch = next(value for value in graph.inputs if value.name not in request_inputs)
    hoister = _Hoister(graph, {value for value in graph.inputs if value.name in request_inputs}, batch)
    for node in list(graph):
        hoister.visit(node)
    passes.RemoveUnusedNodesPass()(model)


class _Hoister:
    """Goes through a graph in order, keeping values in halves."""

    def __init__(self, graph: ir.Graph, request: set[ir.Value], batch: ir.Value) -> None:
        self._graph, self._request, self._batch = graph, request, batch
        self._halves: dict[ir.Value, _Split] = {}
        self._whole: dict[ir.Value, ir.Value] = {}
        self._shapes: dict[int, ir.Value] = {}
        self._nodes: list[ir.Node] = []

    def visit(self, node: ir.Node) -> None:
        """Rewrite one node."""
        if node.op_type == "Expand" and node.inputs[0] in self._request:
            assert node.inputs[0] is not None
            self._halves[node.outputs[0]] = _Split(node.inputs[0])
            return
        if not any(value in self._halves for value in node.inputs):
            return
        self._nodes = []
        output = node.outputs[0]
        hoisted = None
        if len(node.outputs) == 1 and not output.is_graph_output():
            hoisted = self._alone(node) or self._apart(node)
        if isinstance(hoisted, _Split):
            self._halves[output] = hoisted
            self._graph.insert_before(node, self._nodes)
        elif hoisted is not None:
            replace_value(self._graph, output, hoisted, self._nodes)
        else:
            for i, value in enumerate(node.inputs):
                if value in self._halves:
                    node.replace_input_with(i, self._put_together(value))
            self._graph.insert_before(node, self._nodes)

    def _alone(self, node: ir.Node) -> _Split | None:
        """The request alone: the same operator on its one row."""
        alone = all(
            v is None or _constant(v) or (v in self._halves and not self._halves[v].candidates) for v in node.inputs
        )
        if not alone or node.op_type not in _ROWWISE or not self._keeps_rows(node):
            return None
        return _Split(self._again(node, [self._half(value, request=True) for value in node.inputs], 1))

    def _keeps_rows(self, node: ir.Node) -> bool:
        """Whether a row-wise operator's result has a row for each candidate, each computed from its own alone."""
        output, axis = node.outputs[0], node.attributes.get("axis")
        if output.shape is None or self._batch.shape is None or not _rank(output):
            return False
        across = axis is not None and axis.as_int() % _rank(output) == 0
        every_axis = node.op_type == "Squeeze" and len(node.inputs) < 2
        return output.shape[0] == self._batch.shape[0] and not across and not every_axis

    def _apart(self, node: ir.Node) -> _Split | ir.Value | None:
        """Each half by itself, as far as the operator allows."""
        split = [self._halves[value] for value in node.inputs if value in self._halves]
        if node.op_type in _ELEMENTWISE:
            return self._elementwise(node, split)
        if node.op_type == "Concat":
            return self._concat(node)
        rule = _RULES.get(node.op_type)
        return rule(self, node) if rule and all(half.candidates is not None for half in split) else None

    def _elementwise(self, node: ir.Node, split: Sequence[_Split]) -> _Split | ir.Value | None:
        """Each half by itself; or the request's row against all candidates."""
        whole = [value for value in node.inputs if value is not None and value not in self._halves]
        constant = all(_constant(value) for value in whole)
        if not constant and all(half.candidates is None for half in split):
            return self._again(node, [self._half(value, request=True) for value in node.inputs])
        alike = len({(half.order, _width(half.request), _rank(half.request)) for half in split}) == 1
        rank = _rank(node.outputs[0])
        if not alike or not constant or split[0].candidates is None or _rank(split[0].request) != rank:
            return None
        if not all(_is_row(value, rank) for value in whole):
            return None

        def compute(half: ir.Value, columns: list[int]) -> ir.Value:
            request = half is split[0].request
            inputs = [
                self._half(v, request=request) if v is None or v in self._halves else self._columns(v, columns)
                for v in node.inputs
            ]
            return self._again(node, inputs, _batch(half), len(columns))

        return self._both(split[0], compute)

    def _both(self, halves: _Split, compute: Callable[[ir.Value, list[int]], ir.Value]) -> _Split:
        """Each half by itself, from it and the positions of its columns."""
        assert halves.candidates is not None
        of_request, of_candidates = halves.columns
        request, candidates = compute(halves.request, of_request), compute(halves.candidates, of_candidates)
        return _Split(request, candidates, halves.order)

    def _columns(self, constant: ir.Value, columns: Sequence[int]) -> ir.Value:
        """What a constant row has for some columns; a single number serves all."""
        single = not _rank(constant) or _sizes(constant)[-1] == 1
        return constant if single else part_of(self._graph, constant, columns)

    def _lookup(self, node: ir.Node) -> _Split:
        rows, ids = node.inputs
        assert ids is not None
        given = {name: node.attributes[name].as_ints() for name in ("sizes", "offsets")}

        def look_up(half: ir.Value, columns: list[int]) -> ir.Value:
            fields = {name: [v[i] for i in columns] if len(v) > 1 else list(v) for name, v in given.items()}
            about = dict(node.metadata_props)
            new = ir.node(node.op_type, [rows, half], fields, domain=node.domain, metadata_props=about)
            return self._add(new, node.outputs[0], _batch(half), len(columns))

        return self._both(self._halves[ids], look_up)

    def _concat(self, node: ir.Node) -> _Split | None:
        """Side by side on axis 1: the request's columns and the candidates' each by themselves."""
        parts = [value for value in node.inputs if value is not None]
        axis = node.attributes["axis"].as_int() % max(1, _rank(node.outputs[0]))
        if axis != 1 or not all(_width(value) for value in parts):
            return None
        halves = [self._halves.get(value) or value for value in parts]
        request = [part.request for part in halves if isinstance(part, _Split)]
        others = [part.candidates if isinstance(part, _Split) else part for part in halves]
        candidates = [value for value in others if value is not None]
        if not candidates:
            return None
        order: list[int] = []
        begin_request, begin_candidates = 0, sum(_width(value) for value in request)
        for part in halves:
            if isinstance(part, _Split):
                width = _width(part.request)
                total = width + (_width(part.candidates) if part.candidates is not None else 0)
                positions = part.order or range(width)
                order += [begin_request + i if i < width else begin_candidates + i - width for i in positions]
                begin_request, begin_candidates = begin_request + width, begin_candidates + total - width
            else:
                order += range(begin_candidates, begin_candidates + _width(part))
                begin_candidates += _width(part)
        both = [
            values[0] if len(values) == 1 else self._again(node, values, rows, sum(map(_width, values)))
            for values, rows in ((request, 1), (candidates, None))
        ]
        return _Split(both[0], both[1], tuple(order))

    def _reshape(self, node: ir.Node) -> _Split | None:
        """`[B, K, D]` to `[B, K · D]`."""
        value, shape = node.inputs
        assert value is not None
        assert shape is not None
        halves, sizes, target = self._halves[value], _sizes(value), ir.convenience.get_const_tensor(shape)
        if len(sizes) != 3 or not sizes[2] or target is None or target.numpy().tolist() != [-1, sizes[1] * sizes[2]]:
            return None

        def flatten(half: ir.Value, columns: list[int]) -> ir.Value:
            width = len(columns) * sizes[2]
            return self._again(node, [half, self._ints([-1, width])], _batch(half), width)

        order = (column * sizes[2] + i for column in halves.order for i in range(sizes[2]))
        return replace(self._both(halves, flatten), order=tuple(order))

    def _gather(self, node: ir.Node) -> _Split | ir.Value | None:
        """Columns in another order, or one column."""
        value, index = node.inputs
        assert value is not None
        assert index is not None
        halves, positions = self._halves[value], ir.convenience.get_const_tensor(index)
        if positions is None or node.attributes["axis"].as_int() != 1:
            return None
        wanted = positions.numpy()
        if wanted.ndim == 1 and sorted(wanted.tolist()) == list(range(len(halves.order))):
            return _Split(halves.request, halves.candidates, tuple(halves.order[i] for i in wanted))
        if wanted.ndim == 0:
            column, width = halves.order[int(wanted)], _width(halves.request)
            inside = column if column < width else column - width
            position = initializer(self._graph, f"request/column_{inside}", np.array(inside, dtype=np.int64))
            if column < width:
                return _Split(self._again(node, [halves.request, position], 1))
            return self._again(node, [halves.candidates, position])
        return None

    def _gemm(self, node: ir.Node) -> ir.Value | None:
        """W · [u, c] + b = W_c · c + (W_u · u + b)."""
        x, weight, bias = (*node.inputs, None)[:3]
        if not is_linear(node) or x is None or x not in self._halves or not _constant(bias):
            return None
        assert weight is not None
        halves = self._halves[x]
        ours, theirs = (part_of(self._graph, weight, columns) for columns in halves.columns)
        share = self._again(node, [halves.request, ours, bias], 1)
        return self._again(node, [halves.candidates, theirs, share])

    def _matmul(self, node: ir.Node) -> _Split | None:
        """`[B, K, D]` times a constant `[D, E]`: each half by itself."""
        x, weight = node.inputs
        if x is None or x not in self._halves or _rank(x) != 3 or not _constant(weight) or _rank(weight) != 2:
            return None
        return self._both(
            self._halves[x], lambda half, columns: self._again(node, [half, weight], _batch(half), len(columns))
        )

    def _reduce_sum(self, node: ir.Node) -> ir.Value | None:
        """The sum over the columns: the candidates' plus the request's."""
        x, axes = (*node.inputs, None)[:2]
        over = None if axes is None else ir.convenience.get_const_tensor(axes)
        if x is None or over is None or over.numpy().tolist() != [1]:
            return None
        halves = self._halves[x]
        ours = self._again(node, [halves.request, axes], 1)
        theirs = self._again(node, [halves.candidates, axes])
        return self._add(ir.node("Add", [theirs, ours], metadata_props=dict(node.metadata_props)), node.outputs[0])

    def _half(self, value: ir.Value | None, *, request: bool) -> ir.Value | None:
        """One half of a value, or the value itself if it has none."""
        if value is None or value not in self._halves:
            return value
        return self._halves[value].request if request else self._halves[value].candidates

    def _again(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], rows: int | None = None, width: int | None = None
    ) -> ir.Value:
        """The same operator on other inputs; `[rows, width, …]`, each as before where it is None."""
        attributes = list(node.attributes.values())
        new = ir.Node(node.domain, node.op_type, inputs, attributes, metadata_props=dict(node.metadata_props))
        return self._add(new, node.outputs[0], rows, width)

    def _add(self, node: ir.Node, like: ir.Value, rows: int | None = None, width: int | None = None) -> ir.Value:
        sizes = list(like.shape.dims) if like.shape is not None else []
        for axis, size in enumerate((rows, width)):
            if size is not None:
                sizes[axis] = size
        result = node.outputs[0]
        result.type, result.shape = like.type, ir.Shape(sizes)
        self._nodes.append(node)
        return result

    def _put_together(self, value: ir.Value | None) -> ir.Value:
        """One row for each candidate, made once: the request's columns repeated, the candidates' between them."""
        assert value is not None
        if value not in self._whole:
            self._whole[value] = self._assembled(value, self._halves[value])
        return self._whole[value]

    def _assembled(self, value: ir.Value, halves: _Split) -> ir.Value:
        if halves.candidates is None:
            return self._repeated(halves.request, value)
        width = _width(halves.request)
        runs: list[list[int]] = []
        for column in halves.order:
            last = runs[-1] if runs else [-1, -1]
            if column == last[1] and column != width:  # the first of the candidates' columns starts anew
                last[1] += 1
            else:
                runs.append([column, column + 1])
        parts = []
        for begin, end in runs:
            half, first = (halves.request, 0) if begin < width else (halves.candidates, width)
            part = self._slice(half, begin - first, end - first)
            parts.append(self._repeated(part, value) if half is halves.request else part)
        return self._add(ir.node("Concat", parts, {"axis": 1}), value)

    def _slice(self, value: ir.Value, begin: int, end: int) -> ir.Value:
        if (begin, end) == (0, _width(value)):
            return value
        bounds = [self._ints([begin]), self._ints([end]), self._ints([1])]
        return self._add(ir.node("Slice", [value, *bounds]), value, width=end - begin)

    def _repeated(self, request: ir.Value, like: ir.Value) -> ir.Value:
        rank = _rank(request)
        if rank not in self._shapes:
            rows = ir.node("Shape", [self._batch], {"start": 0, "end": 1})
            self._nodes.append(rows)
            self._shapes[rank] = rows.outputs[0]
            if rank > 1:
                shape = ir.node("Concat", [rows.outputs[0], self._ints([1] * (rank - 1))], {"axis": 0})
                self._nodes.append(shape)
                self._shapes[rank] = shape.outputs[0]
        width = _width(request) if rank > 1 else None
        return self._add(ir.node("Expand", [request, self._shapes[rank]]), like, width=width or None)

    def _ints(self, values: list[int]) -> ir.Value:
        name = "request/" + "_".join(map(str, values))
        return initializer(self._graph, name, np.array(values, dtype=np.int64))


#: Operator → what is done where every value in halves has both.
_RULES: dict[str, Callable[[_Hoister, ir.Node], _Split | ir.Value | None]] = {
    "Lookup": _Hoister._lookup,
    "Reshape": _Hoister._reshape,
    "Gather": _Hoister._gather,
    "Gemm": _Hoister._gemm,
    "MatMul": _Hoister._matmul,
    "ReduceSum": _Hoister._reduce_sum,
}


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _sizes(value: ir.Value) -> tuple[int, ...]:
    """Of each axis; 0 where it is not known."""
    return () if value.shape is None else tuple(s if isinstance(s, int) else 0 for s in value.shape.dims)


def _width(value: ir.Value) -> int:
    """Of axis 1; 0 where it is not known."""
    sizes = _sizes(value)
    return sizes[1] if len(sizes) > 1 else 0


def _is_row(constant: ir.Value, rank: int) -> bool:
    """Whether a constant is the same for all rows, and has one number, or one for each column of `[B, K]`."""
    sizes = [1] * (rank - _rank(constant)) + list(_sizes(constant))
    return all(size == 1 for size in sizes) or (rank == 2 and sizes[0] == 1)


def _batch(value: ir.Value) -> int | None:
    """1 for a value of the request, None for one of the candidates."""
    return 1 if _sizes(value)[0] == 1 else None
