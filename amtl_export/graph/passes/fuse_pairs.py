"""Fuse a lookup with the products of its rows' pairs: `(Σ rows)² - Σ rows²` becomes `ai.amtl::LookupPairs`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.facts import table_of
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, is_op, require_unlowered
from amtl_export.graph.passes.fuse_sums import is_sum_over_values
from amtl_export.graph.rewrite import rank, replace_value
from amtl_export.native import DOMAIN


class FusePairs(GraphPass):
    """Compute a factorization machine's pairs (Rendle 2010, lemma 3.1) as the rows are looked up, from surviving dims.

    requires: no lookup is lowered.
    ensures: no `(Σ rows)² - Σ rows²` over the rows `[B, K, D]` of one lookup in one of the tables is left.

    Args:
        tables: paths of the tables whose lookups may be fused.
    """

    def __init__(self, tables: Collection[str]) -> None:
        super().__init__()
        self._tables = tables

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = list(self._pairs(model))
        for difference, lookup in found:
            fields = {name: lookup.attributes[name].as_ints() for name in ("sizes", "offsets")}
            node = ir.node("LookupPairs", lookup.inputs, fields, domain=DOMAIN)
            node.metadata_props.update(lookup.metadata_props)
            replace_value(model.graph, difference.outputs[0], node.outputs[0], [node])
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(found))

    def requires(self, model: ir.Model) -> None:
        """No lookup is lowered."""
        require_unlowered(model)

    def ensures(self, model: ir.Model) -> None:
        """No pairs that could be fused are left."""
        ensure_none((node for node, _ in self._pairs(model)), "pairs of rows of one lookup")

    def _pairs(self, model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node]]:
        """Each difference of a sum's square and a sum of squares, and the lookup whose rows both are of."""
        lookups = [node for node in custom_nodes(model) if is_custom(node, "Lookup") and table_of(node) in self._tables]
        for node in model.graph:
            if not is_op(node, "Sub"):
                continue
            total, squares = (_summed(_squared(node.inputs[0])), _squared(_summed(node.inputs[1])))
            lookup = None if total is None or total is not squares else total.producer()
            if lookup in lookups and lookup is not None and rank(lookup.inputs[1]) == 2:
                yield node, lookup


def _squared(value: ir.Value | None) -> ir.Value | None:
    """What a value is the square of."""
    node = None if value is None else value.producer()
    if node is None or not node.inputs:
        return None
    if is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    power = ir.convenience.get_const_tensor(node.inputs[1]) if is_op(node, "Pow") and node.inputs[1] else None
    return node.inputs[0] if power is not None and np.array_equal(power.numpy(), 2) else None


def _summed(value: ir.Value | None) -> ir.Value | None:
    """What a value is the sum of, over axis 1 of three."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and is_sum_over_values(node) else None
