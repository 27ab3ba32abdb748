"""Lookups in ragged tables, alone or with the sum or the layer that reads them: one node of `graph/ragged.py` each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from amtl_export.graph.builder import Builder, Site
from amtl_export.graph.ragged import BITS, GATHER, LINEAR, LINEAR_INT8, NO_LEAST, SUM, function
from amtl_export.native import DOMAIN
from amtl_export.tables.layout import Ragged


def ragged_gather(builder: Builder, table: Ragged, site: Site) -> ir.Value:
    """One node, which guards and shifts by itself; a function of standard operators goes into the model with it."""
    builder.carry(_bodies(table, GATHER))
    inputs, attributes = _ragged_inputs(builder, table, site)
    return builder.op(GATHER, *inputs, name=f"{site.scope}/rows", domain=DOMAIN, **attributes)


def ragged_sum(builder: Builder, table: Ragged, site: Site) -> ir.Value:
    """A lookup and the sum of its rows as one node, whose function body calls a lookup's."""
    builder.carry(_bodies(table, GATHER, SUM))
    inputs, attributes = _ragged_inputs(builder, table, site)
    return builder.op(SUM, *inputs, name=f"{site.scope}/sum", domain=DOMAIN, **attributes)


def ragged_layer(builder: Builder, table: Ragged, site: Site, node: ir.Node) -> ir.Value:
    """A lookup and the linear layer behind it as one node, whose function body calls a lookup's."""
    layer = [value for value in node.inputs[2:] if value is not None]  # weights, bias, and scales of weights in int8
    kind = LINEAR if len(layer) == 2 else LINEAR_INT8
    builder.carry(_bodies(table, GATHER, kind))
    scope = builder.scope(f"layer/{layer[0].name}")
    ids = site.ids if site.rank == 2 else _as_column(builder, site.ids, scope)
    inputs, attributes = _ragged_inputs(builder, table, replace(site, ids=ids, scope=scope))
    least = 0.0 if node.attributes["relu"].as_int() else NO_LEAST
    return builder.op(kind, *inputs, *layer, name=scope, domain=DOMAIN, **attributes, least=least)


def _bodies(table: Ragged, *names: str) -> dict[str, ir.Function]:
    return {name: function(name, paired=table.paired) for name in names}


def _as_column(builder: Builder, ids: ir.Value, scope: str) -> ir.Value:
    """Ids `[B]` as `[B, 1]`."""
    last = builder.constant("ids/last_axis", np.array([-1], dtype=np.int64))
    column = builder.op("Unsqueeze", ids, last, name=f"{scope}/ids")
    column.type, column.shape = ids.type, ir.Shape([*(ids.shape or ()), 1])
    return column


def _ragged_inputs(builder: Builder, table: Ragged, site: Site) -> tuple[list[ir.Value], dict[str, int | float]]:
    """What every ragged operator begins with, and its attributes."""
    constants = [builder.table_array(site.stored, name, array) for name, array in table.arrays.items()]
    names = (("sizes", site.sizes), ("offsets", site.offsets))
    fields = [builder.constant(f"{site.scope}/{name}", np.array(values, dtype=np.int64)) for name, values in names]
    scaled = table.scales is not None
    attributes = {"dim": table.dim, "block_bits": table.block_bits}
    scale = {"scale_base": 0.0 if scaled else 1.0, "scale_unit": table.scale_unit}
    bits = {BITS: 4} if table.paired else {}
    return [*constants, site.ids, *fields], attributes | scale | bits
