"""Fuse a lookup with the sum over its values: `Lookup → ReduceSum` becomes `ai.amtl::LookupSum`."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from amtl_export.graph.facts import table_of
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, require_unlowered
from amtl_export.graph.rewrite import drops_axis, is_sum_over_values, rank, replace_value, sole_user
from amtl_export.native import DOMAIN


class FuseSums(GraphPass):
    """Sum the rows of ids `[B, L]` of one field as they are looked up.

    requires: no lookup is lowered.
    ensures: where a sum over L alone reads a Lookup in one of the tables, both are a LookupSum: the rows `[B, L, D]`
    are never put down in memory where the native operator runs.

    Args:
        tables: paths of the tables whose lookups may be fused.
    """

    def __init__(self, tables: Collection[str]) -> None:
        super().__init__()
        self._tables = tables

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        fusable = [(node, total) for node in custom_nodes(model) if (total := self._sum_behind(node))]
        for lookup, total in fusable:
            _fuse(model.graph, lookup, total)
        return ir.passes.PassResult(model, bool(fusable))

    def requires(self, model: ir.Model) -> None:
        """No lookup is lowered."""
        require_unlowered(model)

    def ensures(self, model: ir.Model) -> None:
        """No sum that could be fused is left."""
        ensure_none(filter(self._sum_behind, custom_nodes(model)), "lookups that a sum alone reads")

    def _sum_behind(self, lookup: ir.Node) -> ir.Node | None:
        """The sum that a lookup can be fused with."""
        if not is_custom(lookup, "Lookup") or table_of(lookup) not in self._tables:
            return None
        one_field = len(lookup.attributes["sizes"].as_ints()) == 1
        total = sole_user(lookup.outputs[0])
        if not one_field or rank(lookup.inputs[1]) != 2 or total is None:
            return None
        return total if is_sum_over_values(total) and drops_axis(total) else None


def _fuse(graph: ir.Graph, lookup: ir.Node, total: ir.Node) -> None:
    fields = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
    node = ir.node("LookupSum", lookup.inputs, fields, domain=DOMAIN, metadata_props=dict(lookup.metadata_props))
    replace_value(graph, total.outputs[0], node.outputs[0], [node])
    graph.remove(lookup, safe=True)
