"""Fuse a lookup with the products of its rows' pairs: `(Σ rows)² - Σ rows²` becomes `ai.amtl::LookupPairs`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.facts import table_of
from amtl_export.graph.pairs import rows_of_pairs
from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, require_unlowered
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
            rows = rows_of_pairs(node)
            lookup = None if rows is None or rank(node.outputs[0]) != 2 else rows.producer()
            if lookup in lookups and lookup is not None and rank(lookup.inputs[1]) == 2:
                yield node, lookup
