"""Fuse a lookup with the sum over its values: `Lookup → ReduceSum` becomes `ai.amtl::LookupSum`; a mean likewise.

A ragged table has an operator for that. In the other layouts the rows are looked up with the values first, `[L, B, D]`,
and added up over the first axis, whole lines at a time: over the middle one ONNX Runtime takes the examples one by one.
That pays where rows are narrow and values few.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from amtl_export.graph.facts import CONSTANT, table_of
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, require_unlowered
from amtl_export.graph.rewrite import (
    drops_axis,
    initializer,
    is_sum_over_values,
    rank,
    replace_value,
    sizes,
    sole_user,
)
from amtl_export.native import DOMAIN

MEAN = "ReduceMean"

#: Numbers of a row, and values of an example, up to which rows that are not ragged are added up values first.
NARROW, FEW = 24, 8


class FuseSums(GraphPass):
    """Sum the rows of ids `[B, L]` of one field as they are looked up.

    requires: no lookup is lowered.
    ensures: where a sum over L alone reads a Lookup in one of the tables, both are a LookupSum: the rows `[B, L, D]`
    are never put down in memory where the native operator runs. In narrow tables that is so of few values. Where it
    is a mean, a Div by L is behind it.

    Args:
        ragged: paths of ragged tables.
        narrow: paths of other tables, whose rows have at most `NARROW` numbers.
        most: dimension → its largest size, where that is known.
    """

    def __init__(
        self, ragged: Collection[str], narrow: Collection[str] = (), most: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self._ragged, self._narrow, self._most = ragged, narrow, most or {}

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
        if not is_custom(lookup, "Lookup"):
            return None
        one_field = len(lookup.attributes["sizes"].as_ints()) == 1
        total = sole_user(lookup.outputs[0])
        if not one_field or rank(lookup.inputs[1]) != 2 or total is None or not self._pays(lookup):
            return None
        return total if is_sum_over_values(total, MEAN) and drops_axis(total) else None

    def _pays(self, lookup: ir.Node) -> bool:
        """Whether a table is ragged, or narrow and read with few values."""
        table, ids = table_of(lookup), lookup.inputs[1]
        if table in self._ragged or ids is None or ids.shape is None:
            return table in self._ragged
        values = sizes(ids)[1] or self._most.get(str(ids.shape[1]), FEW + 1)
        return table in self._narrow and values <= FEW


def _fuse(graph: ir.Graph, lookup: ir.Node, total: ir.Node) -> None:
    fields = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
    node = ir.node("LookupSum", lookup.inputs, fields, domain=DOMAIN, metadata_props=dict(lookup.metadata_props))
    nodes = [node, *(_divided(graph, node, total) if total.op_type == MEAN else ())]
    replace_value(graph, total.outputs[0], nodes[-1].outputs[0], nodes)
    graph.remove(lookup, safe=True)


def _divided(graph: ir.Graph, summed: ir.Node, mean: ir.Node) -> list[ir.Node]:
    """Nodes that divide a sum over L by L."""
    ids, total, props = summed.inputs[1], summed.outputs[0], dict(mean.metadata_props)
    assert ids is not None
    total.type, total.shape = mean.outputs[0].type, mean.outputs[0].shape
    if values := sizes(ids)[1]:
        count = initializer(graph, f"sums/{values}", np.array(values, np.float32), {CONSTANT: "yes"})
        return [ir.node("Div", [total, count], metadata_props=props)]
    length = ir.node("Shape", [ids], {"start": 1, "end": 2}, metadata_props=props)
    floats = ir.node("Cast", [length.outputs[0]], {"to": ir.DataType.FLOAT}, metadata_props=props)
    return [length, floats, ir.node("Div", [total, floats.outputs[0]], metadata_props=props)]
