"""Fuse a lookup with the sum over its values: `Lookup → ReduceSum` becomes `ai.amtl::LookupSum`.

requires: a model from `trace`, before `lower_lookups`.
ensures: a Lookup of ids `[B, L]` of one field, in a table asked for, that a sum over L alone reads, is a LookupSum: its
rows `[B, L, D]` are never put down in memory where the native operator runs.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from amtl_export.graph.facts import table_of
from amtl_export.graph.rewrite import replace_value
from amtl_export.native import DOMAIN


def fuse_sums(model: ir.Model, tables: Collection[str]) -> None:
    """Rewrite in place.

    Args:
        model: from `trace`.
        tables: paths of the tables whose lookups may be fused.
    """
    for node in list(model.graph):
        if node.op_type == "Lookup" and node.domain == DOMAIN and table_of(node) in tables:
            _fuse(model.graph, node)


def _fuse(graph: ir.Graph, lookup: ir.Node) -> None:
    ids, rows = lookup.inputs[1], lookup.outputs[0]
    users = [use.node for use in rows.uses()]
    if ids is None or ids.shape is None or len(ids.shape) != 2 or len(users) != 1 or rows.is_graph_output():
        return
    total = users[0]
    if len(lookup.attributes["sizes"].as_ints()) != 1 or not _is_sum_over_values(total):
        return
    fields = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
    node = ir.node("LookupSum", lookup.inputs, fields, domain=DOMAIN, metadata_props=dict(lookup.metadata_props))
    replace_value(graph, total.outputs[0], node.outputs[0], [node])
    graph.remove(lookup, safe=True)


def _is_sum_over_values(node: ir.Node) -> bool:
    """ReduceSum over axis 1, which is gone then."""
    if node.op_type != "ReduceSum" or node.domain != "" or len(node.inputs) != 2 or node.inputs[1] is None:
        return False
    axes = ir.convenience.get_const_tensor(node.inputs[1])
    keepdims = node.attributes.get("keepdims")
    return axes is not None and axes.numpy().tolist() == [1] and keepdims is not None and keepdims.as_int() == 0
