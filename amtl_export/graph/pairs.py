"""A factorization machine's pairs in a graph: `(Σ rows)² - Σ rows²` over rows `[B, K, D]` (Rendle 2010, lemma 3.1)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from amtl_export.graph.passes.base import is_op
from amtl_export.graph.rewrite import is_sum_over_values, rank


def rows_of_pairs(node: ir.Node) -> ir.Value | None:
    """The rows `[B, K, D]` whose pairs a node gives, `[B, D]` or `[B, 1, D]`; None if it gives something else."""
    if not is_op(node, "Sub"):
        return None
    rows, squared = _summed(_squared(node.inputs[0])), _squared(_summed(node.inputs[1]))
    return rows if rows is squared and rank(rows) == 3 else None


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
