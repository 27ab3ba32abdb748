"""Values in two halves, the request's and the candidates', and the nodes that compute with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import CONSTANT
from amtl_export.graph.rewrite import initializer, rank, sizes, width
from amtl_export.graph.weights import part_of


@dataclass(frozen=True)
class Split:
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
        of_request = width(self.request)
        return [where[i] for i in range(of_request)], [where[i] for i in range(of_request, len(self.order))]


@dataclass(frozen=True)
class Kept:
    """Why an operator reads a value put together, and not its halves."""

    why: str


class Halves:
    """The values of a graph that are in halves, and nodes made of them.

    Args:
        graph: being rewritten.
        batch: a graph input with one row for each candidate.
    """

    def __init__(self, graph: ir.Graph, batch: ir.Value) -> None:
        self._graph, self.batch = graph, batch
        self.of: dict[ir.Value, Split] = {}
        self._whole: dict[ir.Value, ir.Value] = {}
        self._shapes: dict[int, ir.Value] = {}
        self.nodes: list[ir.Node] = []

    def both(self, halves: Split, compute: Callable[[ir.Value, list[int]], ir.Value]) -> Split:
        """Each half by itself, from it and the positions of its columns."""
        assert halves.candidates is not None
        of_request, of_candidates = halves.columns
        request, candidates = compute(halves.request, of_request), compute(halves.candidates, of_candidates)
        return Split(request, candidates, halves.order)

    def columns(self, constant: ir.Value, columns: Sequence[int]) -> ir.Value:
        """What a constant row has for some columns; a single number serves all."""
        single = not rank(constant) or sizes(constant)[-1] == 1
        return constant if single else part_of(self._graph, constant, columns)

    def half(self, value: ir.Value | None, *, request: bool) -> ir.Value | None:
        """One half of a value, or the value itself if it has none."""
        if value is None or value not in self.of:
            return value
        return self.of[value].request if request else self.of[value].candidates

    def again(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], rows: int | None = None, columns: int | None = None
    ) -> ir.Value:
        """The same operator on other inputs; `[rows, width, …]`, each as before where it is None."""
        attributes = list(node.attributes.values())
        new = ir.Node(node.domain, node.op_type, inputs, attributes, metadata_props=dict(node.metadata_props))
        return self.add(new, node.outputs[0], rows, columns)

    def add(self, node: ir.Node, like: ir.Value, rows: int | None = None, columns: int | None = None) -> ir.Value:
        """Keep a new node; its result, of the type and shape of `like` but for `[rows, columns, …]`."""
        shape = list(like.shape.dims) if like.shape is not None else []
        for axis, size in enumerate((rows, columns)):
            if size is not None:
                shape[axis] = size
        result = node.outputs[0]
        result.type, result.shape = like.type, ir.Shape(shape)
        self.nodes.append(node)
        return result

    def put_together(self, value: ir.Value | None) -> ir.Value:
        """One row for each candidate, made once: the request's columns repeated, the candidates' between them."""
        assert value is not None
        if value not in self._whole:
            self._whole[value] = self._assembled(value, self.of[value])
        return self._whole[value]

    def _assembled(self, value: ir.Value, halves: Split) -> ir.Value:
        if halves.candidates is None:
            return self._repeated(halves.request, value)
        of_request = width(halves.request)
        runs = _runs(halves.order, of_request)
        parts = []
        for begin, end in runs:
            half, first = (halves.request, 0) if begin < of_request else (halves.candidates, of_request)
            part = self._slice(half, begin - first, end - first)
            parts.append(self._repeated(part, value) if half is halves.request else part)
        return self.add(ir.node("Concat", parts, {"axis": 1}), value)

    def _slice(self, value: ir.Value, begin: int, end: int) -> ir.Value:
        if (begin, end) == (0, width(value)):
            return value
        bounds = [self.ints([begin]), self.ints([end]), self.ints([1])]
        return self.add(ir.node("Slice", [value, *bounds]), value, columns=end - begin)

    def _repeated(self, request: ir.Value, like: ir.Value) -> ir.Value:
        axes = rank(request)
        if axes not in self._shapes:
            self._shapes[axes] = self._shape(axes)
        columns = width(request) if axes > 1 else None
        return self.add(ir.node("Expand", [request, self._shapes[axes]]), like, columns=columns or None)

    def _shape(self, axes: int) -> ir.Value:
        """The shape `[B, 1, …]`, for an Expand."""
        rows = ir.node("Shape", [self.batch], {"start": 0, "end": 1})
        self.nodes.append(rows)
        if axes == 1:
            return rows.outputs[0]
        self.nodes.append(ir.node("Concat", [rows.outputs[0], self.ints([1] * (axes - 1))], {"axis": 0}))
        return self.nodes[-1].outputs[0]

    def ints(self, values: list[int]) -> ir.Value:
        """A constant vector."""
        name = "request/" + "_".join(map(str, values))
        return initializer(self._graph, name, np.array(values, dtype=np.int64), {CONSTANT: "yes"})

    def number(self, value: int) -> ir.Value:
        """A constant int64 number."""
        name = f"request/number_{value}"
        return initializer(self._graph, name, np.array(value, dtype=np.int64), {CONSTANT: "yes"})

    def weight_columns(self, weight: ir.Value, halves: Split) -> tuple[ir.Value, ir.Value]:
        """A weight's columns that multiply the request's half, and the candidates'."""
        request, candidates = (part_of(self._graph, weight, columns) for columns in halves.columns)
        return request, candidates


def _runs(order: Sequence[int], of_request: int) -> list[list[int]]:
    """Neighbours in [request, candidates] that stay neighbours: where each run of them begins and ends."""
    runs: list[list[int]] = []
    for column in order:
        last = runs[-1] if runs else [-1, -1]
        if column == last[1] and column != of_request:  # the first of the candidates' columns starts anew
            last[1] += 1
        else:
            runs.append([column, column + 1])
    return runs


def is_row(constant: ir.Value, axes: int) -> bool:
    """Whether a constant is the same for all rows, and has one number, or one for each column of `[B, K]`."""
    known = [1] * (axes - rank(constant)) + list(sizes(constant))
    return all(size == 1 for size in known) or (axes == 2 and known[0] == 1)


def rows_of(value: ir.Value) -> int | None:
    """1 for a value of the request, None for one of the candidates."""
    return 1 if sizes(value)[0] == 1 else None
