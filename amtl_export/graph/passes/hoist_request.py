"""Hoist what depends on the request alone: compute it once, not for each candidate.

A value that was put together from columns of the request and columns of the candidates is kept as two halves for as
long as the algebra allows: rows are looked up, numbers normalised and products taken in each half alone. Where they
meet,

    W · [u, c] + b = W_c · c + (W_u · u + b),      sum over [u, c] = sum over c + sum over u,

so a first layer, a cross layer and FM's sums have the request's share computed once, `[1, …]`. What reads both in any
other way reads the halves put together again.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.facts import table_of
from amtl_export.graph.halves import Halves, Kept, Split
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_op, require, require_unlowered
from amtl_export.graph.rewrite import is_constant, rank, replace_value, sizes
from amtl_export.graph.split_rules import RULES, Hoisted, concat, elementwise
from amtl_export.spec import BATCH

#: Operators that compute each number from the numbers at its position.
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"}
    | {"GreaterOrEqual", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not"}
    | {"Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where"}
)
#: Operators that move numbers and compute nothing.
_MOVES = frozenset({"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
#: Operators that compute each row of a batch from that row, if the result has a row for each.
_ROWWISE = (
    _ELEMENTWISE
    | _MOVES
    | {"BatchNormalization", "Gemm", "LayerNormalization", "LogSoftmax", "Lookup", "MatMul", "ReduceMax", "ReduceMean"}
    | {"ReduceMin", "ReduceProd", "ReduceSum", "Softmax"}
)


class HoistRequest(GraphPass):
    """Compute what depends on the request alone once, not for each candidate.

    requires: no lookup is lowered; the request's inputs are `[1, …]`, each repeated by an Expand to one row for each
    candidate; another input has a row for each.
    ensures: the graph answers the same up to the order of sums; no Lookup in a table reads repeated ids of the request,
    unless its rows are an output.

    Args:
        request_inputs: names of the inputs that have one row for the whole request.
    """

    def __init__(self, request_inputs: Collection[str]) -> None:
        super().__init__()
        self._names = frozenset(request_inputs)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place; modified means that an operator that computes something is the request's now."""
        hoister = _Hoister(model.graph, self._request(model), self._batch(model), self)
        for node in list(model.graph):
            hoister.visit(node)
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, any(_computes(node) for node in hoister.once if node.graph is not None))

    def requires(self, model: ir.Model) -> None:
        """The request's inputs have one row, and another input one for each candidate."""
        require_unlowered(model)
        request = self._request(model)
        require(len(request) == len(self._names), "inputs of the request are not in the graph")
        require(all(sizes(value)[:1] == (1,) for value in request), "inputs of the request must be [1, …]")
        require(len(model.graph.inputs) > len(request), "no input is the candidates'")

    def ensures(self, model: ir.Model) -> None:
        """No Lookup reads repeated ids of the request."""
        repeated = {
            node.outputs[0] for node in model.graph if is_op(node, "Expand") and node.inputs[0] in self._request(model)
        }
        lookups = [node for node in custom_nodes(model) if repeated.intersection(node.inputs) and table_of(node)]
        ensure_none((node for node in lookups if not node.outputs[0].is_graph_output()), "lookups of repeated ids")

    def _request(self, model: ir.Model) -> list[ir.Value]:
        return [value for value in model.graph.inputs if value.name in self._names]

    def _batch(self, model: ir.Model) -> ir.Value:
        """An input with one row for each candidate."""
        others = [value for value in model.graph.inputs if value.name not in self._names]
        return next((value for value in others if value.shape and str(value.shape[0]) == BATCH), others[0])


def _computes(node: ir.Node) -> bool:
    """Whether a node does more than move numbers."""
    return node.op_type not in _MOVES or (node.op_type == "Gather" and is_constant(node.inputs[0]))


class _Hoister:
    """Goes through a graph in order, keeping values in halves.

    Attributes:
        once: nodes that were made for the request alone.
    """

    def __init__(self, graph: ir.Graph, request: Collection[ir.Value], batch: ir.Value, owner: HoistRequest) -> None:
        self._graph, self._request, self._owner = graph, set(request), owner
        self._halves = Halves(graph, batch)
        self._fixed: set[ir.Value] = set(graph.initializers.values())
        self.once: list[ir.Node] = []

    def visit(self, node: ir.Node) -> None:
        """Rewrite one node."""
        if is_op(node, "Expand") and node.inputs[0] in self._request:
            assert node.inputs[0] is not None
            self._halves.of[node.outputs[0]] = Split(node.inputs[0])
        elif any(value in self._halves.of for value in node.inputs):
            self._halves.nodes = []
            self._replace(node, self._hoisted(node))
            self.once += [new for new in self._halves.nodes if sizes(new.outputs[0])[:1] == (1,)]
        elif self._fixed.issuperset(value for value in node.inputs if value is not None):
            self._fixed.update(node.outputs)

    def _replace(self, node: ir.Node, hoisted: Hoisted) -> None:
        if isinstance(hoisted, Split):
            self._halves.of[node.outputs[0]] = hoisted
            self._graph.insert_before(node, self._halves.nodes)
        elif isinstance(hoisted, ir.Value):
            replace_value(self._graph, node.outputs[0], hoisted, self._halves.nodes)
        else:
            self._owner.missed(node, hoisted.why)
            self._put_together(node)

    def _put_together(self, node: ir.Node) -> None:
        """Let a node read whole values."""
        self._halves.nodes = []
        for i, value in enumerate(node.inputs):
            if value in self._halves.of:
                node.replace_input_with(i, self._halves.put_together(value))
        self._graph.insert_before(node, self._halves.nodes)

    def _hoisted(self, node: ir.Node) -> Hoisted:
        """What a node becomes: the same for the request alone, or for each half, as far as the operator allows."""
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            return Kept("its result is an output of the graph" if len(node.outputs) == 1 else "it has several results")
        if self._is_requests(node):
            why = self._why_not_alone(node)
            if why is None:
                inputs = [self._halves.half(value, request=True) for value in node.inputs]
                return Split(self._halves.again(node, inputs, 1))
            return Kept(why)
        return self._apart(node)

    def _is_requests(self, node: ir.Node) -> bool:
        """Whether a node reads the request and what depends on no input alone."""
        of, values = self._halves.of, [value for value in node.inputs if value is not None]
        return all(v in self._fixed or is_constant(v) or (v in of and of[v].candidates is None) for v in values)

    def _why_not_alone(self, node: ir.Node) -> str | None:
        """Why an operator cannot be computed for the request's one row; None if it can."""
        output, axis, batch = node.outputs[0], node.attributes.get("axis"), self._halves.batch
        if node.op_type not in _ROWWISE:
            return "no rule says that it computes each row from that row alone"
        if output.shape is None or batch.shape is None or rank(output) < 1:
            return "its shape is not known"
        across = axis is not None and axis.as_int() % rank(output) == 0
        every_axis = node.op_type == "Squeeze" and len(node.inputs) < 2
        if output.shape[0] != batch.shape[0] or across or every_axis:
            return "it computes across the rows of the batch"
        return None

    def _apart(self, node: ir.Node) -> Hoisted:
        """Each half by itself, as far as the operator allows."""
        if node.op_type in _ELEMENTWISE:
            return elementwise(self._halves, node)
        if node.op_type == "Concat":
            return concat(self._halves, node)
        rule = RULES.get(node.op_type)
        halves = [self._halves.of[value] for value in node.inputs if value in self._halves.of]
        if rule is None:
            return Kept("no rule splits it into the request's share and the candidates'")
        if any(half.candidates is None for half in halves):
            return Kept("it computes with the request's value and with the candidates', other than number by number")
        return rule(self._halves, node)
