"""Lower `ai.amtl::Lookup` to the standard operators of a layout, with the id guard in front.

requires: a model from `trace`, every Lookup's first input an initializer.
ensures: no foreign node is left; every lookup's result is the value `lookup/<input>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.graph.trace import DOMAIN, PROVENANCE
from amtl_export.tables.layout import Dense, LaidOut, Paged

IdPolicy = Literal["guard", "trust"]


@dataclass(frozen=True)
class Lookup:
    """Where a lookup stands in the lowered graph.

    Attributes:
        input: the graph input with its ids.
        output: the value with its rows, float32 `[B, K, D]`.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
    """

    input: str
    output: str
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]


def lower_lookups(model: ir.Model, table: LaidOut, policy: IdPolicy) -> list[Lookup]:
    """Replace every Lookup node, in place.

    Args:
        model: from `trace`.
        table: the one table of the model, laid out.
        policy: `guard` sends ids outside `[0, V)` to the field's id 0; `trust` leaves the guard out.

    Returns:
        Where the lookups are now.
    """
    builder = _Builder(model, table)
    done = []
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == "Lookup":
            done.append(builder.replace(node, policy))
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    return done


class _Builder:
    """Makes nodes before the one being replaced, and initializers once each."""

    def __init__(self, model: ir.Model, table: LaidOut) -> None:
        self._graph = model.graph
        self._table = table
        self._made: list[ir.Node] = []
        self._scope = ""
        self._provenance: dict[str, str] = {}

    def replace(self, node: ir.Node, policy: IdPolicy) -> Lookup:
        ids = node.inputs[1]
        assert ids is not None
        assert ids.name is not None
        sizes = tuple(node.attributes["sizes"].as_ints())
        offsets = tuple(node.attributes["offsets"].as_ints())
        self._scope, self._made = f"lookup/{ids.name}", []
        self._provenance = {key: node.metadata_props[key] for key in PROVENANCE if key in node.metadata_props}
        known = self._guarded(ids, sizes) if policy == "guard" else ids
        place = self._shifted(known, offsets)
        rows = _EMIT[type(self._table)](self, self._table, place)
        old = node.outputs[0]
        rows.name, rows.type, rows.shape = self._scope, old.type, old.shape
        self._graph.insert_before(node, self._made)
        ir.convenience.replace_all_uses_with(old, rows)
        self._graph.remove(node, safe=True)
        return Lookup(ids.name, self._scope, sizes, offsets)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer, made once for each name."""
        if name not in self._graph.initializers:
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.shape, value.dtype = (
                ir.Shape(array.shape),
                ir.tensor(array[:0] if array.ndim else array).dtype,
            )
            self._graph.initializers[name] = value
        return self._graph.initializers[name]

    def op(self, kind: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        """A standard node; its result."""
        made = ir.node(kind, inputs, attributes, name=f"{self._scope}/{name}", metadata_props=self._provenance)
        made.outputs[0].name = f"{self._scope}/{name}"
        self._made.append(made)
        return made.outputs[0]

    def _guarded(self, ids: ir.Value, sizes: Sequence[int]) -> ir.Value:
        zero = self.constant("guard/zero", np.array(0, dtype=np.int64))
        limit = self.constant(f"{self._scope}/sizes", np.array(sizes, dtype=np.int64))
        above = self.op("GreaterOrEqual", ids, zero, name="not_negative")
        below = self.op("Less", ids, limit, name="below_size")
        return self.op("Where", self.op("And", above, below, name="known"), ids, zero, name="known_ids")

    def _shifted(self, ids: ir.Value, offsets: Sequence[int]) -> ir.Value:
        if not any(offsets):
            return ids
        return self.op(
            "Add",
            ids,
            self.constant(f"{self._scope}/offsets", np.array(offsets, dtype=np.int64)),
            name="place",
        )


def _emit_dense(builder: _Builder, table: Dense, place: ir.Value) -> ir.Value:
    return builder.op("Gather", builder.constant("table/rows", table.rows), place, name="rows", axis=0)


def _emit_paged(builder: _Builder, table: Paged, place: ir.Value) -> ir.Value:
    page_table = builder.constant("table/page_table", table.page_table)
    pages = builder.constant("table/pages", table.pages)
    numbers = builder.op("Gather", page_table, place, name="page_numbers", axis=0)  # [B, K, P]
    parts = builder.op("Gather", pages, numbers, name="pages", axis=0)  # [B, K, P, c]
    width = table.page_table.shape[1] * table.width
    shape = builder.constant("table/row_shape", np.array([0, 0, width], dtype=np.int64))
    rows = builder.op("Reshape", parts, shape, name="joined")  # [B, K, P·c]
    if width == table.dim:
        return rows
    cut = [
        builder.constant(f"table/cut_{n}", np.array([v], dtype=np.int64))
        for n, v in (("from", 0), ("to", table.dim), ("axis", 2))
    ]
    return builder.op("Slice", rows, *cut, name="cut")


#: Layout → its nodes. A layout is a class in tables/layout.py and a line here.
_EMIT: dict[type, Callable[[_Builder, Any, ir.Value], ir.Value]] = {Dense: _emit_dense, Paged: _emit_paged}
