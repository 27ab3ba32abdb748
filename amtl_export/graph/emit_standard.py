"""Lookups of standard operators alone: in dense tables, pages and blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
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


def _dequantized(builder: Builder, table: Dense | Paged, site: Site, rows: ir.Value) -> ir.Value:
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


def _rows_type(table: Dense | Paged) -> np.dtype[Any]:
    """The value type of a table."""
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
    """Columns whose fields lie in the same runs are looked up together; each run's rows are padded and added."""
    ends = table.starts + [len(rows) - 2 for rows in table.tables]
    spans = list(zip(site.offsets, (o + s for o, s in zip(site.offsets, site.sizes, strict=True)), strict=True))
    # A run's table answers zero for the row on either side of it, so a lone padding row needs no clipping.
    inside = [[r for r in range(len(ends)) if table.starts[r] < end and begin < ends[r]] or [0] for begin, end in spans]
    clipped = any(
        begin < table.starts[r] - 1 or ends[r] + 1 < end
        for (begin, end), runs in zip(spans, inside, strict=True)
        for r in runs
    )
    groups = [(runs, len(list(same))) for runs, same in itertools.groupby(inside)]
    parts, done = [], 0
    for runs, columns in groups:
        scope = site.scope if len(groups) == 1 else f"{site.scope}/columns_{done}"
        row_numbers = builder.row_numbers(site)
        if len(groups) > 1:
            bounds = (("from", done), ("to", done + columns), ("axis", 1))
            cut = [builder.constant(f"{scope}/{name}", np.array([value], dtype=np.int64)) for name, value in bounds]
            row_numbers = builder.op("Slice", row_numbers, *cut, name=f"{scope}/row_numbers")
        parts.append(_emit_runs(builder, table, runs, row_numbers, replace(site, scope=scope), clipped=clipped))
        done += columns
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, name=f"{site.scope}/rows", axis=1)


def _emit_runs(
    builder: Builder, table: Blocks, runs: Sequence[int], row_numbers: ir.Value, site: Site, *, clipped: bool
) -> ir.Value:
    """Rows that lie in some of the runs, `[*ids, D]`."""
    terms = []
    for run in runs:
        start, rows = int(table.starts[run]), table.tables[run]
        stored, scope = f"table/{site.stored}/{block_name(start)}", f"{site.scope}/{block_name(start)}"
        before = builder.constant(f"{stored}_before", np.array(start - 1, dtype=np.int64))
        local = builder.op("Sub", row_numbers, before, name=f"{scope}/local")
        if clipped:
            least = builder.constant("ids/zero", np.array(0, dtype=np.int64))
            most = builder.constant(f"{stored}_last", np.array(len(rows) - 1, dtype=np.int64))
            local = builder.op("Clip", local, least, most, name=f"{scope}/clipped")
        looked_up = builder.op(
            "Gather",
            builder.table_array(site.stored, block_name(start), rows),
            local,
            name=f"{scope}/looked_up",
            axis=0,
        )
        if rows.shape[1] < table.dim:
            past = [0] * (2 * site.rank + 1) + [table.dim - rows.shape[1]]
            pads = builder.constant(f"{stored}_pads_{site.rank}", np.array(past, dtype=np.int64))
            looked_up = builder.op("Pad", looked_up, pads, name=f"{scope}/padded")
        terms.append(looked_up)
    return terms[0] if len(terms) == 1 else builder.op("Sum", *terms, name=f"{site.scope}/sum")
