"""Lookups of standard operators alone: in dense tables, pages and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from amtl_export.graph.builder import Builder, Site
from amtl_export.tables.layout import Blocks, Dense, Paged, PairedDense, block_name
from amtl_export.tables.values import PAIR_ZERO_POINT, Scales


def dense(builder: Builder, table: Dense, site: Site) -> ir.Value:
    """One Gather."""
    rows = builder.table_array(site.stored, "rows", table.rows)
    looked_up = builder.op("Gather", rows, builder.row_numbers(site), name=f"{site.scope}/rows", axis=0)
    return _dequantized(builder, table, site, looked_up)


def paired_dense(builder: Builder, table: PairedDense, site: Site) -> ir.Value:
    """One Gather of pairs, then exact arithmetic in float32, which CUDA has too: it has no operator on bits."""
    scope = site.scope
    known = {"unit": 1 / 16, "sixteen": 16, "zero_point": PAIR_ZERO_POINT}
    unit, sixteen, zero_point = (
        builder.constant(f"table/pair_{name}", np.array(value, np.float32)) for name, value in known.items()
    )
    rows = builder.table_array(site.stored, "rows", table.rows)
    pairs = builder.op("Gather", rows, builder.row_numbers(site), name=f"{scope}/pairs", axis=0)  # [*ids, half]
    wide = builder.op("Cast", pairs, name=f"{scope}/cast", to=ir.DataType.FLOAT)
    high = builder.op("Floor", builder.op("Mul", wide, unit, name=f"{scope}/sixteenths"), name=f"{scope}/high")
    low = builder.op("Sub", wide, builder.op("Mul", high, sixteen, name=f"{scope}/shifted"), name=f"{scope}/low")
    both = builder.op("Concat", low, high, name=f"{scope}/halves", axis=-1)  # [*ids, 2 · half]
    both = both if table.dim % 2 == 0 else _cut(builder, table.dim, site, both)
    numbers = builder.op("Sub", both, zero_point, name=f"{scope}/numbers")
    return _scaled(builder, table.scales, site, numbers)


def _dequantized(builder: Builder, table: Dense | Paged | Blocks, site: Site, rows: ir.Value) -> ir.Value:
    """Rows in their value type as float32, each times its scale."""
    if _rows_type(table) == np.float32:
        return rows
    wide = builder.op("Cast", rows, name=f"{site.scope}/cast", to=ir.DataType.FLOAT)
    return wide if table.scales is None else _scaled(builder, table.scales, site, wide)


def _scaled(builder: Builder, scales: Scales, site: Site, wide: ir.Value) -> ir.Value:
    """Rows, each times its scale."""
    quantized = builder.table_array(site.stored, "quantized_scales", scales.quantized)
    unit = builder.table_array(site.stored, "scale_unit", np.array(scales.unit, np.float32))
    multiples = builder.op(
        "Gather", quantized, builder.row_numbers(site), name=f"{site.scope}/quantized_scales", axis=0
    )
    floats = builder.op("Cast", multiples, name=f"{site.scope}/float_multiples", to=ir.DataType.FLOAT)
    exact = builder.op("Mul", floats, unit, name=f"{site.scope}/scales")
    last = builder.constant("table/last_axis", np.array([-1], dtype=np.int64))
    column = builder.op("Unsqueeze", exact, last, name=f"{site.scope}/scales_column")
    return builder.op("Mul", wide, column, name=f"{site.scope}/dequantized")


def _rows_type(table: Dense | Paged | Blocks) -> np.dtype[Any]:
    """The value type of a table."""
    if isinstance(table, Blocks):
        return table.tables[0].dtype
    return (table.rows if isinstance(table, Dense) else table.pages).dtype


def paged(builder: Builder, table: Paged, site: Site) -> ir.Value:
    """Page numbers of the ids, then the pages."""
    stored, scope, rank = f"table/{site.stored}", site.scope, site.rank
    page_table = builder.table_array(site.stored, "page_table", table.page_table)
    pages = builder.table_array(site.stored, "pages", table.pages)
    numbers = builder.op(
        "Gather", page_table, builder.row_numbers(site), name=f"{scope}/page_numbers", axis=0
    )  # [*ids, P]
    parts = builder.op("Gather", pages, numbers, name=f"{scope}/pages", axis=0)  # [*ids, P, c]
    width = table.page_table.shape[1] * table.width
    shape = builder.constant(f"{stored}/row_shape_{rank}", np.array([0] * rank + [width], dtype=np.int64))
    rows = builder.op("Reshape", parts, shape, name=f"{scope}/padded")  # [*ids, P·c]
    if width == table.dim:
        return _dequantized(builder, table, site, rows)
    return _dequantized(builder, table, site, _cut(builder, table.dim, site, rows))


def _cut(builder: Builder, dim: int, site: Site, rows: ir.Value) -> ir.Value:
    """The first numbers of wider rows."""
    bounds = (("from", 0), ("to", dim), (f"axis_{site.rank}", site.rank))
    cut = [
        builder.constant(f"table/{site.stored}/cut_{name}", np.array([value], dtype=np.int64)) for name, value in bounds
    ]
    return builder.op("Slice", rows, *cut, name=f"{site.scope}/cut")


def blocks(builder: Builder, table: Blocks, site: Site) -> ir.Value:
    """A Gather for each block, side by side; rows that end before a later block read its row of zeros."""
    first = builder.table_array(site.stored, block_name(0), table.tables[0])
    rows = builder.op("Gather", first, builder.row_numbers(site), name=f"{site.scope}/{block_name(0)}", axis=0)
    if len(table.tables) == 1:
        return _dequantized(builder, table, site, rows)
    positions, clipped = _positions(builder, table, site, rows)
    parts = [_first_columns(builder, table, site, rows) if table.positions_inside else rows]
    for number, block in enumerate(table.tables[1:], start=1):
        name, stored, within = block_name(number), f"table/{site.stored}/{block_name(number)}", positions
        if number > 1 or not clipped:
            kind = np.int32 if clipped else np.int64
            zeros = builder.constant(f"{stored}_zeros", np.array(len(block) - 1, dtype=kind))
            within = builder.op("Min", positions, zeros, name=f"{site.scope}/{name}_rows")
        array = builder.table_array(site.stored, name, block)
        parts.append(builder.op("Gather", array, within, name=f"{site.scope}/{name}", axis=0))
    side_by_side = builder.op("Concat", *parts, name=f"{site.scope}/side_by_side", axis=-1)
    return _dequantized(builder, table, site, side_by_side)


def _positions(builder: Builder, table: Blocks, site: Site, first: ir.Value) -> tuple[ir.Value, bool]:
    """Rows of the second block, and whether they are stored: int32, none past its end; else row numbers."""
    scope = site.scope
    if table.positions_inside:
        column = builder.constant(f"table/{site.stored}/positions_column", np.array(table.first_width, dtype=np.int64))
        floats = builder.op("Gather", first, column, name=f"{scope}/float_positions", axis=-1)
        return builder.op("Cast", floats, name=f"{scope}/positions", to=ir.DataType.INT32), True
    numbers = builder.row_numbers(site)
    if table.positions is None:
        return numbers, False
    positions = builder.table_array(site.stored, "positions", table.positions)
    return builder.op("Gather", positions, numbers, name=f"{scope}/positions", axis=0), True


def _first_columns(builder: Builder, table: Blocks, site: Site, first: ir.Value) -> ir.Value:
    """The first block without the positions."""
    bounds = (("from", 0), ("to", table.first_width), ("axis", -1))
    cut = [builder.constant(f"table/{site.stored}/first_{name}", np.array([value])) for name, value in bounds]
    return builder.op("Slice", first, *cut, name=f"{site.scope}/first_columns")
