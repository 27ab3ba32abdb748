"""Lower `ai.amtl::Lookup` to the nodes of a layout, with the id guard in front.

requires: a model from `trace`, every Lookup's first input the initializer `model.<table>.rows`.
ensures: no foreign node is left but RaggedGather, which comes with a body of standard operators;
every lookup's result is the value `lookup/<table>/<input>`; lookups of the same ids in several tables share
one guard and one shift.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.graph.ragged import OPERATOR, ragged_gather
from amtl_export.graph.trace import DOMAIN, PROVENANCE
from amtl_export.tables.layout import Blocks, Dense, LaidOut, Paged, Ragged, block_name

IdPolicy = Literal["guard", "trust"]


@dataclass(frozen=True)
class Lookup:
    """Where a lookup stands in the lowered graph.

    Attributes:
        table: path of the table's module.
        input: the graph input with its ids.
        output: the value with its rows, float32 `[B, K, D]`.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
    """

    table: str
    input: str
    output: str
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]


def lower_lookups(model: ir.Model, tables: Mapping[str, LaidOut], policy: IdPolicy) -> list[Lookup]:
    """Replace every Lookup node, in place.

    Args:
        model: from `trace`.
        tables: path of each table's module → the table, laid out.
        policy: `guard` sends ids outside `[0, V)` to the field's id 0; `trust` leaves the guard out.

    Returns:
        Where the lookups are now.
    """
    builder = _Builder(model, tables, policy)
    done: list[Lookup] = []
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == "Lookup":
            lowered = builder.replace(node)
            done += [lowered] if lowered else []
    passes.RemoveUnusedNodesPass()(model)
    if not model.functions:
        model.opset_imports.pop(DOMAIN, None)
    return done


class _Builder:
    """Makes nodes before the one being replaced, and initializers once each."""

    def __init__(self, model: ir.Model, tables: Mapping[str, LaidOut], policy: IdPolicy) -> None:
        self._model, self._graph = model, model.graph
        self._tables = tables
        self._policy = policy
        self._places: dict[tuple[str, tuple[int, ...], tuple[int, ...]], ir.Value] = {}
        self._looked_up: dict[str, ir.Value] = {}
        self._made: list[ir.Node] = []
        self._provenance: dict[str, str] = {}

    def replace(self, node: ir.Node) -> Lookup | None:
        """Lower one Lookup; None if the same ids were looked up in the same table before, and that is used."""
        source, ids = node.inputs
        assert source is not None
        assert source.name is not None
        assert ids is not None
        assert ids.name is not None
        path = source.name.removeprefix("model.").removesuffix(".rows")
        sizes = tuple(node.attributes["sizes"].as_ints())
        offsets = tuple(node.attributes["offsets"].as_ints())
        self._made = []
        self._provenance = {key: node.metadata_props[key] for key in PROVENANCE if key in node.metadata_props}
        table, scope, old = self._tables[path], f"lookup/{path}/{ids.name}", node.outputs[0]
        if scope in self._looked_up:
            ir.convenience.replace_all_uses_with(old, self._looked_up[scope])
            self._graph.remove(node, safe=True)
            return None
        assert old.shape is not None
        rank = len(old.shape) - 1  # of ids: 2 for the packed input and multi-valued fields, any in other models
        site = _Site(ids, rank, sizes, offsets, f"table/{path}", scope)
        rows = _EMIT[type(table)](self, table, site)
        rows.name, rows.type, rows.shape = scope, old.type, old.shape
        self._looked_up[scope] = rows
        self._graph.insert_before(node, self._made)
        ir.convenience.replace_all_uses_with(old, rows)
        self._graph.remove(node, safe=True)
        return Lookup(path, ids.name, scope, sizes, offsets)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer, made once for each name."""
        if name not in self._graph.initializers:
            value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            value.shape, value.dtype = (
                ir.Shape(array.shape),
                ir.tensor(array[:0] if array.ndim else array).dtype,
            )
            self._graph.initializers[name] = value
        return self._graph.initializers[name]

    def op(self, kind: str, *inputs: ir.Value, name: str, domain: str = "", **attributes: Any) -> ir.Value:
        """A node; its result."""
        made = ir.node(kind, inputs, attributes, name=name, domain=domain, metadata_props=self._provenance)
        made.outputs[0].name = name
        self._made.append(made)
        return made.outputs[0]

    def needs(self, function: ir.Function) -> None:
        """A function that the model must carry, once."""
        self._model.functions.setdefault(function.identifier(), function)

    def place(self, site: _Site) -> ir.Value:
        """Table rows of ids, guarded unless ids are trusted; made once for the same ids, sizes and offsets."""
        ids, sizes, offsets = site.ids, site.sizes, site.offsets
        assert ids.name is not None
        key = (ids.name, sizes, offsets)
        if key not in self._places:
            scope = f"ids/{ids.name}" + (f"/{len(self._places)}" if self._taken(ids.name) else "")
            known = self._guarded(ids, sizes, scope) if self._policy == "guard" else ids
            self._places[key] = self._shifted(known, offsets, scope)
        return self._places[key]

    def _taken(self, name: str) -> bool:
        return any(name == input_name for input_name, _, _ in self._places)

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
        return self.op("Add", ids, shift, name=f"{scope}/place")


@dataclass(frozen=True)
class _Site:
    """One lookup being lowered.

    Attributes:
        ids: int64, as the graph gets them.
        rank: of `ids`.
        sizes: V of each column's field (one number serves all columns).
        offsets: first table row of each column's field.
        stored: where the names of the table's arrays begin.
        scope: where the names of the lookup's nodes begin.
    """

    ids: ir.Value
    rank: int
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    stored: str
    scope: str


def _emit_dense(builder: _Builder, table: Dense, site: _Site) -> ir.Value:
    rows = builder.constant(f"{site.stored}/rows", table.rows)
    return builder.op("Gather", rows, builder.place(site), name=f"{site.scope}/rows", axis=0)


def _emit_paged(builder: _Builder, table: Paged, site: _Site) -> ir.Value:
    stored, scope, rank = site.stored, site.scope, site.rank
    page_table = builder.constant(f"{stored}/page_table", table.page_table)
    pages = builder.constant(f"{stored}/pages", table.pages)
    numbers = builder.op("Gather", page_table, builder.place(site), name=f"{scope}/page_numbers", axis=0)  # [*ids, P]
    parts = builder.op("Gather", pages, numbers, name=f"{scope}/pages", axis=0)  # [*ids, P, c]
    width = table.page_table.shape[1] * table.width
    shape = builder.constant(f"{stored}/row_shape_{rank}", np.array([0] * rank + [width], dtype=np.int64))
    rows = builder.op("Reshape", parts, shape, name=f"{scope}/joined")  # [*ids, P·c]
    if width == table.dim:
        return rows
    bounds = (("from", 0), ("to", table.dim), (f"axis_{rank}", rank))
    cut = [builder.constant(f"{stored}/cut_{name}", np.array([value], dtype=np.int64)) for name, value in bounds]
    return builder.op("Slice", rows, *cut, name=f"{scope}/cut")


def _emit_blocks(builder: _Builder, table: Blocks, site: _Site) -> ir.Value:
    """Columns whose fields lie in the same runs are looked up together; each run's rows are padded and added."""
    ends = table.starts + [len(rows) - 2 for rows in table.tables]
    spans = list(zip(site.offsets, (o + s for o, s in zip(site.offsets, site.sizes, strict=True)), strict=True))
    # A run's table answers zero for the row on either side of it, so a lone padding row needs no clipping.
    inside = [[r for r in range(len(ends)) if table.starts[r] < end and begin < ends[r]] or [0] for begin, end in spans]
    clipped = any(
        begin < table.starts[r] - 1 or ends[r] + 1 < end
        for (begin, end), own in zip(spans, inside, strict=True)
        for r in own
    )
    groups = [(own, len(list(same))) for own, same in itertools.groupby(inside)]
    parts, done = [], 0
    for own, columns in groups:
        scope = site.scope if len(groups) == 1 else f"{site.scope}/columns_{done}"
        place = builder.place(site)
        if len(groups) > 1:
            bounds = (("from", done), ("to", done + columns), ("axis", 1))
            cut = [builder.constant(f"{scope}/{name}", np.array([value], dtype=np.int64)) for name, value in bounds]
            place = builder.op("Slice", place, *cut, name=f"{scope}/place")
        parts.append(_emit_runs(builder, table, own, place, replace(site, scope=scope), clipped=clipped))
        done += columns
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, name=f"{site.scope}/rows", axis=1)


def _emit_runs(
    builder: _Builder, table: Blocks, runs: Sequence[int], place: ir.Value, site: _Site, *, clipped: bool
) -> ir.Value:
    """Rows that lie in some of the runs, `[*ids, D]`."""
    terms = []
    for run in runs:
        start, rows = int(table.starts[run]), table.tables[run]
        stored, scope = f"{site.stored}/{block_name(start)}", f"{site.scope}/{block_name(start)}"
        before = builder.constant(f"{stored}_before", np.array(start - 1, dtype=np.int64))
        local = builder.op("Sub", place, before, name=f"{scope}/local")
        if clipped:
            least = builder.constant("ids/zero", np.array(0, dtype=np.int64))
            most = builder.constant(f"{stored}_last", np.array(len(rows) - 1, dtype=np.int64))
            local = builder.op("Clip", local, least, most, name=f"{scope}/clipped")
        found = builder.op("Gather", builder.constant(stored, rows), local, name=f"{scope}/found", axis=0)
        if rows.shape[1] < table.dim:
            past = [0] * (2 * site.rank + 1) + [table.dim - rows.shape[1]]
            pads = builder.constant(f"{stored}_pads_{site.rank}", np.array(past, dtype=np.int64))
            found = builder.op("Pad", found, pads, name=f"{scope}/padded")
        terms.append(found)
    return terms[0] if len(terms) == 1 else builder.op("Sum", *terms, name=f"{site.scope}/sum")


def _emit_ragged(builder: _Builder, table: Ragged, site: _Site) -> ir.Value:
    """One node, which guards and shifts by itself; a function of standard operators goes into the model with it."""
    constants = [builder.constant(f"{site.stored}/{name}", array) for name, array in table.arrays.items()]
    ids = site.ids
    names = (("sizes", site.sizes), ("offsets", site.offsets))
    fields = [builder.constant(f"{site.scope}/{name}", np.array(values, dtype=np.int64)) for name, values in names]
    builder.needs(ragged_gather())
    return builder.op(OPERATOR, *constants, ids, *fields, name=f"{site.scope}/rows", domain=DOMAIN, dim=table.dim)


#: Layout → its nodes. A layout is a class in tables/layout.py and a line here.
_EMIT: dict[type, Callable[[_Builder, Any, _Site], ir.Value]] = {
    Dense: _emit_dense,
    Paged: _emit_paged,
    Blocks: _emit_blocks,
    Ragged: _emit_ragged,
}
