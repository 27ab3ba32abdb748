"""Read the rows of ids alone: `Lookup(WholeTable(rows), ids)` becomes `Lookup(rows, ids)`."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.passes.base import GraphPass, custom_nodes, ensure_none, is_custom, require_unlowered


class ReadRowsAlone(GraphPass):
    """Look ids up in a table itself, where a model looks them up in a copy of it.

    requires: no lookup is lowered.
    ensures: no Lookup reads a WholeTable.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        found = _lookups_in_whole_tables(model)
        for lookup, whole in found:
            lookup.replace_input_with(0, whole.inputs[0])
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(found))

    def requires(self, model: ir.Model) -> None:
        """No lookup is lowered."""
        require_unlowered(model)

    def ensures(self, model: ir.Model) -> None:
        """No Lookup reads a WholeTable."""
        ensure_none((lookup for lookup, _ in _lookups_in_whole_tables(model)), "lookups that read a whole table")


def _lookups_in_whole_tables(model: ir.Model) -> list[tuple[ir.Node, ir.Node]]:
    lookups = [node for node in custom_nodes(model) if node.op_type == "Lookup"]
    matrices = [(node, node.inputs[0].producer()) for node in lookups if node.inputs[0] is not None]
    return [(node, whole) for node, whole in matrices if whole is not None and is_custom(whole, "WholeTable")]
