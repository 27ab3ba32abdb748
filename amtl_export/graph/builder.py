"""Makes the nodes that a lookup becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import ARRAY, CONSTANT, PROVENANCE, TABLE
from amtl_export.graph.lookups import IdPolicy
from amtl_export.graph.rewrite import initializer, replace_value
from amtl_export.native import DOMAIN


@dataclass(frozen=True)
class Site:
    """One lookup being lowered.

    Attributes:
        ids: int64, as the graph gets them.
        rank: of `ids`.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
        stored: path of the table.
        scope: where the names of the lookup's nodes begin.
    """

    ids: ir.Value
    rank: int
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    stored: str
    scope: str


class Builder:
    """Makes nodes before the one being replaced, and initializers once each.

    Args:
        model: whose nodes are replaced.
        policy: whether ids are guarded.
    """

    def __init__(self, model: ir.Model, policy: IdPolicy = "guard") -> None:
        self._model, self._graph = model, model.graph
        self._policy = policy
        self._row_numbers: dict[tuple[str, tuple[int, ...], tuple[int, ...]], ir.Value] = {}
        self._turned: dict[ir.Value, ir.Value] = {}
        self._scopes: dict[str, int] = {}
        self._nodes: list[ir.Node] = []
        self._provenance: dict[str, str] = {}

    def begin(self, node: ir.Node) -> None:
        """Start anew: the next nodes stand for this one, and carry its provenance."""
        self._nodes = []
        self._provenance = {key: node.metadata_props[key] for key in PROVENANCE if key in node.metadata_props}

    def end(self, old: ir.Value, new: ir.Value) -> None:
        """Put the nodes made since `begin` in the place of the one that gave `old`."""
        replace_value(self._graph, old, new, self._nodes)

    def scope(self, name: str) -> str:
        """A name for what begins here, unlike all others."""
        self._scopes[name] = self._scopes.get(name, 0) + 1
        return name if self._scopes[name] == 1 else f"{name}/{self._scopes[name]}"

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer, made once for each name."""
        return initializer(self._graph, name, array, {CONSTANT: "yes"})

    def table_array(self, path: str, array: str, values: np.ndarray[Any, Any]) -> ir.Value:
        """An array of a table's layout, made once."""
        return initializer(self._graph, f"table/{path}/{array}", values, {TABLE: path, ARRAY: array})

    def op(self, kind: str, *inputs: ir.Value, name: str, domain: str = "", **attributes: Any) -> ir.Value:
        """A node; its result."""
        node = ir.node(kind, inputs, attributes, name=name, domain=domain, metadata_props=self._provenance)
        node.outputs[0].name = name
        self._nodes.append(node)
        return node.outputs[0]

    def carry(self, bodies: Mapping[str, ir.Function]) -> None:
        """Give the model the function bodies of custom ops, by their names, once each."""
        for name, body in bodies.items():
            self._model.functions.setdefault((DOMAIN, name, ""), body)
        self._model.opset_imports.setdefault(DOMAIN, 1)

    def row_numbers(self, site: Site) -> ir.Value:
        """Table rows of ids, guarded unless ids are trusted; made once for the same ids, sizes and offsets."""
        ids, sizes, offsets = site.ids, site.sizes, site.offsets
        assert ids.name is not None
        key = (ids.name, sizes, offsets)
        if key not in self._row_numbers:
            scope = f"ids/{ids.name}" + (f"/{len(self._row_numbers)}" if self._has_rows_of(ids.name) else "")
            known = self._guarded(ids, sizes, scope) if self._policy == "guard" else ids
            self._row_numbers[key] = self._shifted(known, offsets, scope)
        return self._row_numbers[key]

    def values_first(self, ids: ir.Value) -> ir.Value:
        """Ids `[B, L]` as `[L, B]`; made once."""
        if ids not in self._turned:
            turned = self.op("Transpose", ids, name=f"{ids.name}/values_first", perm=[1, 0])
            turned.type, turned.shape = ids.type, ir.Shape(tuple(reversed(ids.shape.dims)) if ids.shape else ())
            self._turned[ids] = turned
        return self._turned[ids]

    def _has_rows_of(self, name: str) -> bool:
        return any(name == input_name for input_name, _, _ in self._row_numbers)

    def _guarded(self, ids: ir.Value, sizes: Sequence[int], scope: str) -> ir.Value:
        """Ids that are known; 0 in the place of others, by a product: ONNX Runtime's Where takes longer."""
        known = self._clipped_alike(ids, sizes[0], scope) if _is_narrow(ids, sizes) else self._within(ids, sizes, scope)
        kept = self.op("Cast", known, name=f"{scope}/kept", to=ir.DataType.INT64)
        return self.op("Mul", kept, ids, name=f"{scope}/known_ids")

    def _within(self, ids: ir.Value, sizes: Sequence[int], scope: str) -> ir.Value:
        zero = self.constant("ids/zero", np.array(0, dtype=np.int64))
        limit = self.constant(f"{scope}/sizes", _number_or_numbers(sizes))
        above = self.op("GreaterOrEqual", ids, zero, name=f"{scope}/not_negative")
        below = self.op("Less", ids, limit, name=f"{scope}/below_size")
        return self.op("And", above, below, name=f"{scope}/known")

    def _clipped_alike(self, ids: ir.Value, size: int, scope: str) -> ir.Value:
        zero = self.constant("ids/zero", np.array(0, dtype=np.int64))
        last = self.constant(f"{scope}/last", np.array(size - 1, dtype=np.int64))
        clipped = self.op("Clip", ids, zero, last, name=f"{scope}/clipped")
        return self.op("Equal", clipped, ids, name=f"{scope}/known")

    def _shifted(self, ids: ir.Value, offsets: Sequence[int], scope: str) -> ir.Value:
        if not any(offsets):
            return ids
        shift = self.constant(f"{scope}/offsets", _number_or_numbers(offsets))
        return self.op("Add", ids, shift, name=f"{scope}/row_numbers")


def _is_narrow(ids: ir.Value, sizes: Sequence[int]) -> bool:
    """Whether all ids have one size, and lie in one column: ONNX Runtime's And goes through `[B, 1]` one by one."""
    return len(sizes) == 1 and (ids.shape is None or len(ids.shape) < 2 or ids.shape[-1] == 1)


def _number_or_numbers(values: Sequence[int]) -> np.ndarray[Any, Any]:
    """One number where all columns have the same, else one for each."""
    return np.array(values if len(set(values)) > 1 else values[0], dtype=np.int64)
