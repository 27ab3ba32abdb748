"""Read the rows of ids alone: `Lookup(WholeTable(rows), ids)` becomes `Lookup(rows, ids)`.

requires: a model from `trace`.
ensures: a WholeTable is left only where something else than a Lookup reads it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.native import DOMAIN


def read_rows_alone(model: ir.Model) -> None:
    """Rewrite in place."""
    for node in model.graph:
        if node.domain != DOMAIN or node.op_type != "Lookup":
            continue
        matrix = node.inputs[0]
        whole = matrix.producer() if matrix is not None else None
        if whole is not None and whole.domain == DOMAIN and whole.op_type == "WholeTable":
            node.replace_input_with(0, whole.inputs[0])
    passes.RemoveUnusedNodesPass()(model)
