"""Lower `ai.amtl::Lookup` to the nodes of a layout, id guard in front; `LookupSum` and `LookupLinear` to theirs.

requires: a model from `trace`; the table of a LookupSum or LookupLinear is ragged.
ensures: no custom op is left but those of graph/ragged.py, with their function bodies of standard operators;
every lookup's result is the value `lookup/<table>/<input>`, unless it is part of a RaggedSum or a ragged layer;
lookups of the same ids in several tables share one guard and one shift.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.graph.facts import ARRAY, CONSTANT, PROVENANCE, TABLE, table_of
from amtl_export.graph.ragged import GATHER, LINEAR, LINEAR_INT8, NO_LEAST, SUM, function
from amtl_export.graph.rewrite import initializer, replace_value
from amtl_export.native import DOMAIN
from amtl_export.tables.layout import Blocks, Dense, LaidOut, Paged, Ragged, block_name

IdPolicy = Literal["guard", "trust"]


@dataclass(frozen=True)
class Lookup:
    """Where a lookup stands in the lowered graph.

    Attributes:
        table: path of the table's module.
        input: the value with its ids, a graph input for instance; empty where the table is read whole.
        output: the value with its rows, float32 `[B, K, D]`, or what it would be called: a fused layer has none.
        layer: name of the RaggedSum or ragged layer that reads the table instead, or empty.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
    """

    table: str
    input: str
    output: str
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    layer: str = ""


def lower_lookups(model: ir.Model, tables: Mapping[str, LaidOut], policy: IdPolicy) -> list[Lookup]:
    """Replace every Lookup, LookupSum and LookupLinear node, in place.

    Args:
        model: from `trace`.
        tables: path of each table's module → the table, laid out.
        policy: `guard` sends ids outside `[0, V)` to the field's id 0; `trust` leaves the guard out.

    Returns:
        Where the lookups are now.
    """
    builder = _Builder(model, tables, policy)
    done: dict[str, Lookup] = {}
    for node in [node for node in model.graph if node.domain == DOMAIN]:
        if table_of(node) is None:
            builder.replace_plain(node)
            continue
        lowered = builder.replace(node)
        if not done.get(lowered.output) or not lowered.layer:  # the rows themselves, where they are there
            done[lowered.output] = lowered
    passes.RemoveUnusedNodesPass()(model)
    if not model.functions:
        model.opset_imports.pop(DOMAIN, None)
    return list(done.values())


class _Builder:
    """Makes nodes before the one being replaced, and initializers once each."""

    def __init__(self, model: ir.Model, tables: Mapping[str, LaidOut], policy: IdPolicy) -> None:
        self._model, self._graph = model, model.graph
        self._tables = tables
        self._policy = policy
        self._row_numbers: dict[tuple[str, tuple[int, ...], tuple[int, ...]], ir.Value] = {}
        self._looked_up: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._provenance: dict[str, str] = {}

    def replace(self, node: ir.Node) -> Lookup:
        """Lower one custom op; rows of the same ids in the same table are looked up once."""
        path, old = table_of(node), node.outputs[0]
        assert path is not None
        if node.op_type == "WholeTable":
            return self._replace_whole(path, node)
        ids = node.inputs[1]
        assert ids is not None
        assert ids.name is not None
        assert ids.shape is not None
        sizes = tuple(node.attributes["sizes"].as_ints())
        offsets = tuple(node.attributes["offsets"].as_ints())
        self._begin(node)
        table, scope, layer = self._tables[path], f"lookup/{path}/{ids.name}", ""
        site = _Site(ids, len(ids.shape), sizes, offsets, path, scope)
        if node.op_type == "LookupLinear":
            assert isinstance(table, Ragged)
            new = _emit_layer(self, table, site, node)
            layer = new.name or ""
        elif node.op_type == "LookupSum":
            assert isinstance(table, Ragged)
            new = _emit_sum(self, table, site)
            layer = new.name or ""
        elif scope in self._looked_up:
            new = self._looked_up[scope]
        else:
            new = self._looked_up[scope] = _EMIT[type(table)](self, table, site)
            new.name = scope
        replace_value(self._graph, old, new, self._nodes)
        return Lookup(path, ids.name, scope, sizes, offsets, layer)

    def _replace_whole(self, path: str, node: ir.Node) -> Lookup:
        """Every row of a table: its own array where that holds them, else a lookup of all ids."""
        self._begin(node)
        table, scope = self._tables[path], f"lookup/{path}"
        rows = node.inputs[0]
        assert rows is not None
        assert rows.shape is not None
        V = rows.shape[0]
        assert isinstance(V, int)
        if scope not in self._looked_up:
            if isinstance(table, Dense) and table.rows.dtype == np.float32:
                new = self.table_array(path, "rows", table.rows)
            else:
                bounds = [self.constant(f"ids/{n}", np.array(n, dtype=np.int64)) for n in (0, V, 1)]
                ids = self.op("Range", *bounds, name=f"ids/all_of_{path}")
                ids.shape, ids.type = ir.Shape([V]), ir.TensorType(ir.DataType.INT64)
                new = _EMIT[type(table)](self, table, _Site(ids, 1, (V,), (0,), path, scope))
                new.name = scope
            self._looked_up[scope] = new
        new = self._looked_up[scope]
        replace_value(self._graph, node.outputs[0], new, self._nodes)
        return Lookup(path, "", str(new.name), (V,), (0,))

    def replace_plain(self, node: ir.Node) -> None:
        """A lookup in a matrix that is no table: a Gather behind the guard."""
        self._begin(node)
        rows, ids = node.inputs
        assert rows is not None
        assert ids is not None
        site = _Site(
            ids, len(ids.shape or ()), tuple(node.attributes["sizes"].as_ints()), (0,), "", f"lookup/{ids.name}"
        )
        new = self.op("Gather", rows, self.row_numbers(site), name=str(node.outputs[0].name) + "/rows", axis=0)
        replace_value(self._graph, node.outputs[0], new, self._nodes)

    def _begin(self, node: ir.Node) -> None:
        self._nodes = []
        self._provenance = {key: node.metadata_props[key] for key in PROVENANCE if key in node.metadata_props}

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer, made once for each name."""
        return initializer(self._graph, name, array, {CONSTANT: "yes"})

    def table_array(self, path: str, array: str, values: np.ndarray[Any, Any]) -> ir.Value:
        """An array of a table's layout, made once."""
        return initializer(self._graph, f"table/{path}/{array}", values, {TABLE: path, ARRAY: array})

    def op(self, kind: str, *inputs: ir.Value, name: str, domain: str = "", **attributes: Any) -> ir.Value:
        """A node; its result."""
        node = ir.node(kind, inputs, attributes, name=name, domain=domain, metadata_props=self._provenance)
        node.outputs[0].name = name
        self._nodes.append(node)
        return node.outputs[0]

    def carry(self, *names: str) -> None:
        """Give the model the function bodies of custom ops, once each."""
        for name in names:
            self._model.functions.setdefault((DOMAIN, name, ""), function(name))

    def row_numbers(self, site: _Site) -> ir.Value:
        """Table rows of ids, guarded unless ids are trusted; made once for the same ids, sizes and offsets."""
        ids, sizes, offsets = site.ids, site.sizes, site.offsets
        assert ids.name is not None
        key = (ids.name, sizes, offsets)
        if key not in self._row_numbers:
            scope = f"ids/{ids.name}" + (f"/{len(self._row_numbers)}" if self._has_rows_of(ids.name) else "")
            known = self._guarded(ids, sizes, scope) if self._policy == "guard" else ids
            self._row_numbers[key] = self._shifted(known, offsets, scope)
        return self._row_numbers[key]

    def _has_rows_of(self, name: str) -> bool:
        return any(name == input_name for input_name, _, _ in self._row_numbers)

    def _guarded(self, ids: ir.Value, sizes: Sequence[int], scope: str) -> ir.Value:
        zero = self.constant("ids/zero", np.array(0, dtype=np.int64))
        limit = self.constant(f"{scope}/sizes", np.array(sizes, dtype=np.int64))
        above = self.op("GreaterOrEqual", ids, zero, name=f"{scope}/not_negative")
        below = self.op("Less", ids, limit, name=f"{scope}/below_size")
        known = self.op("And", above, below, name=f"{scope}/known")
        return self.op("Where", known, ids, zero, name=f"{scope}/known_ids")

    def _shifted(self, ids: ir.Value, offsets: Sequence[int], scope: str) -> ir.Value:
        if not any(offsets):
            return ids
        shift = self.constant(f"{scope}/offsets", np.array(offsets, dtype=np.int64))
        return self.op("Add", ids, shift, name=f"{scope}/row_numbers")


@dataclass(frozen=True)
class _Site:
    """One lookup being lowered.

    Attributes:
        ids: int64, as the graph gets them.
        rank: of `ids`.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
        stored: path of the table.
        scope: where the names of the lookup's nodes begin.
    """

    ids: ir.Value
    rank: int
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    stored: str
    scope: str


def _emit_dense(builder: _Builder, table: Dense, site: _Site) -> ir.Value:
    rows = builder.table_array(site.stored, "rows", table.rows)
    looked_up = builder.op("Gather", rows, builder.row_numbers(site), name=f"{site.scope}/rows", axis=0)
    return _dequantized(builder, table, site, looked_up)


def _dequantized(builder: _Builder, table: Dense | Paged, site: _Site, rows: ir.Value) -> ir.Value:
    """Rows in their value type as float32, each times its scale."""
    if _rows_type(table) == np.float32:
        return rows
    wide = builder.op("Cast", rows, name=f"{site.scope}/cast", to=ir.DataType.FLOAT)
    if table.scales is None:
        return wide
    quantized = builder.table_array(site.stored, "quantized_scales", table.scales.quantized)
    unit = builder.table_array(site.stored, "scale_unit", np.array(table.scales.unit, np.float32))
    multiples = builder.op(
        "Gather", quantized, builder.row_numbers(site), name=f"{site.scope}/quantized_scales", axis=0
    )
    floats = builder.op("Cast", multiples, name=f"{site.scope}/float_multiples", to=ir.DataType.FLOAT)
    scales = builder.op("Mul", floats, unit, name=f"{site.scope}/scales")
    last = builder.constant("table/last_axis", np.array([-1], dtype=np.int64))
    column = builder.op("Unsqueeze", scales, last, name=f"{site.scope}/scales_column")
    return builder.op("Mul", wide, column, name=f"{site.scope}/dequantized")


def _rows_type(table: Dense | Paged) -> np.dtype[Any]:
    """The value type of a table."""
    return (table.rows if isinstance(table, Dense) else table.pages).dtype


def _emit_paged(builder: _Builder, table: Paged, site: _Site) -> ir.Value:
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
    bounds = (("from", 0), ("to", table.dim), (f"axis_{rank}", rank))
    cut = [builder.constant(f"{stored}/cut_{name}", np.array([value], dtype=np.int64)) for name, value in bounds]
    return _dequantized(builder, table, site, builder.op("Slice", rows, *cut, name=f"{scope}/cut"))


def _emit_blocks(builder: _Builder, table: Blocks, site: _Site) -> ir.Value:
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
    builder: _Builder, table: Blocks, runs: Sequence[int], row_numbers: ir.Value, site: _Site, *, clipped: bool
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


def _emit_ragged(builder: _Builder, table: Ragged, site: _Site) -> ir.Value:
    """One node, which guards and shifts by itself; a function of standard operators goes into the model with it."""
    builder.carry(GATHER)
    inputs, attributes = _ragged_inputs(builder, table, site)
    return builder.op(GATHER, *inputs, name=f"{site.scope}/rows", domain=DOMAIN, **attributes)


def _emit_sum(builder: _Builder, table: Ragged, site: _Site) -> ir.Value:
    """A lookup and the sum of its rows as one node, whose function body calls a lookup's."""
    builder.carry(GATHER, SUM)
    inputs, attributes = _ragged_inputs(builder, table, site)
    return builder.op(SUM, *inputs, name=f"{site.scope}/sum", domain=DOMAIN, **attributes)


def _emit_layer(builder: _Builder, table: Ragged, site: _Site, node: ir.Node) -> ir.Value:
    """A lookup and the linear layer behind it as one node, whose function body calls a lookup's."""
    layer = [value for value in node.inputs[2:] if value is not None]  # weights, bias, and scales of weights in int8
    kind = LINEAR if len(layer) == 2 else LINEAR_INT8
    builder.carry(GATHER, kind)
    scope = f"layer/{layer[0].name}"
    inputs, attributes = _ragged_inputs(builder, table, replace(site, scope=scope))
    least = 0.0 if node.attributes["relu"].as_int() else NO_LEAST
    return builder.op(kind, *inputs, *layer, name=scope, domain=DOMAIN, **attributes, least=least)


def _ragged_inputs(builder: _Builder, table: Ragged, site: _Site) -> tuple[list[ir.Value], dict[str, int | float]]:
    """What every ragged operator begins with, and its attributes."""
    constants = [builder.table_array(site.stored, name, array) for name, array in table.arrays.items()]
    names = (("sizes", site.sizes), ("offsets", site.offsets))
    fields = [builder.constant(f"{site.scope}/{name}", np.array(values, dtype=np.int64)) for name, values in names]
    scaled = table.scales is not None
    attributes = {"dim": table.dim, "block_bits": table.block_bits}
    scale = {"scale_base": 0.0 if scaled else 1.0, "scale_unit": table.scale_unit}
    return [*constants, site.ids, *fields], attributes | scale


#: Layout → its nodes. A layout is a class in tables/layout.py and a line here.
_EMIT: dict[type, Callable[[_Builder, Any, _Site], ir.Value]] = {
    Dense: _emit_dense,
    Paged: _emit_paged,
    Blocks: _emit_blocks,
    Ragged: _emit_ragged,
}
