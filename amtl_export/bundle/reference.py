"""The model that a bundle is held against where its numbers are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.quantized_model import with_quantized_weights
from amtl_export.tables.values import Stored, fake_quantized


def reference_of(frozen: FrozenModel, rows: Mapping[str, Stored], graph: ir.Model) -> FrozenModel:
    """The model as it was given; where the bundle's numbers are quantized, the frozen one with the same numbers.

    Args:
        frozen: what was exported.
        rows: table → its rows as stored.
        graph: whose layers may be quantized.
    """
    reference = fake_quantized(frozen, rows)
    model = with_quantized_weights(reference.module.model, graph)
    if model is reference.module.model:
        return reference
    return replace(reference.with_model(model), trained=None)
