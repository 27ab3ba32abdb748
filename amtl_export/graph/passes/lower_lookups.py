"""Lower `ai.amtl::Lookup` to the nodes of a layout, id guard in front, and the operators that lookups were fused to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from amtl_export.graph.builder import Builder, Site
from amtl_export.graph.emit_ragged import ragged_gather, ragged_layer, ragged_sum
from amtl_export.graph.emit_standard import blocks, dense, paged, paired_dense
from amtl_export.graph.facts import table_of
from amtl_export.graph.lookups import IdPolicy, Lookup
from amtl_export.graph.passes.base import (
    GraphPass,
    custom_nodes,
    ensure,
    ensure_none,
    is_custom,
    require,
    require_unlowered,
)
from amtl_export.graph.ragged import PAIRS, SUM
from amtl_export.graph.rewrite import rank, sizes
from amtl_export.native import DOMAIN
from amtl_export.tables.layout import Blocks, Dense, LaidOut, Paged, PairedDense, Ragged

#: Layout → its nodes. A layout is a class in tables/layout.py and a line here.
_EMIT: dict[type, Callable[[Builder, Any, Site], ir.Value]] = {
    Dense: dense,
    PairedDense: paired_dense,
    Paged: paged,
    Blocks: blocks,
    Ragged: ragged_gather,
}


class LowerLookups(GraphPass):
    """Replace every Lookup, WholeTable, LookupSum, LookupPairs and LookupLinear by nodes of its table's layout.

    requires: no lookup is lowered; every table is laid out, that of the last two as ragged; ragged
    tables are all of int4 or none is, since a model has one function body of an operator; ranks of ids are known.
    ensures: no custom op is left but those of graph/ragged.py, with their function bodies of standard operators;
    every lookup's result is the value that `lookups` names, unless it is part of another ragged operator; in a
    LookupSum of another layout it has its values first, `[L, B, D]`;
    lookups of the same ids in several tables share one guard and one shift.

    Args:
        tables: path of each table's module → the table, laid out.
        policy: `guard` sends ids outside `[0, V)` to the field's id 0; `trust` leaves the guard out.
    """

    def __init__(self, tables: Mapping[str, LaidOut], policy: IdPolicy) -> None:
        super().__init__()
        self._tables, self._policy = tables, policy
        self._lookups: dict[tuple[Any, ...], Lookup] = {}

    @property
    def lookups(self) -> list[Lookup]:
        """Where the lookups are now; those in matrices that are no tables are not among them."""
        return list(self._lookups.values())

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        lowering, nodes = _Lowering(model, self._tables, self._policy), custom_nodes(model)
        for node in nodes:
            if is_custom(node, "Decode"):
                lowering.replace_decode(node)
            elif table_of(node) is None:
                lowering.replace_plain(node)
            else:
                self._keep(lowering.replace(node))
        common.RemoveUnusedNodesPass()(model)
        if not model.functions:
            model.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, bool(nodes))

    def _keep(self, lookup: Lookup) -> None:
        """Once for each ids and table: the rows themselves, where they are there."""
        key = (lookup.table, lookup.input, _fields(lookup.sizes, lookup.offsets))
        if key not in self._lookups or not lookup.layer:
            self._lookups[key] = lookup

    def requires(self, model: ir.Model) -> None:
        """Every lookup can be lowered."""
        require_unlowered(model)
        paired = {table.paired for table in self._tables.values() if isinstance(table, Ragged)}
        require(len(paired) <= 1, "some ragged tables are of int4, others are not")
        for node in custom_nodes(model):
            path = table_of(node)
            require(path is None or path in self._tables, f"table {path} is not laid out")
            ragged = path is not None and isinstance(self._tables[path], Ragged)
            require(
                ragged or node.op_type in ("Lookup", "LookupSum", "WholeTable", "Decode"),
                f"{node.op_type} of {path}, which is not ragged",
            )
            require(node.op_type == "WholeTable" or rank(node.inputs[1]) >= 0, f"ids of {path} have no rank")

    def ensures(self, model: ir.Model) -> None:
        """Custom ops have bodies, and lookups are where they are said to be."""
        bodies = {name for _, name, _ in model.functions}
        ensure_none((node for node in custom_nodes(model) if node.op_type not in bodies), "custom ops without a body")
        names = {value.name for node in model.graph for value in node.outputs} | set(model.graph.initializers)
        lost = [lookup.output for lookup in self.lookups if (lookup.layer or lookup.output) not in names]
        ensure(not lost, f"lookups that are not in the graph: {', '.join(lost)}")


def _fields(sizes: tuple[int, ...], offsets: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Size and offset of each column's field; once if they are alike, as one number serves all columns."""
    fields = tuple(zip(sizes, offsets, strict=True))
    return fields[:1] if len(set(fields)) == 1 else fields


def _values_first(scope: str) -> str:
    """Where the names of nodes begin that look up `[L, B]`."""
    return f"{scope}/values_first"


class _Lowering:
    """Replaces custom ops one by one; rows of the same ids in the same table are looked up once."""

    def __init__(self, model: ir.Model, tables: Mapping[str, LaidOut], policy: IdPolicy) -> None:
        self._builder, self._tables = Builder(model, policy), tables
        self._made: dict[tuple[Any, ...], ir.Value] = {}
        self._scopes: dict[tuple[Any, ...], str] = {}

    def replace(self, node: ir.Node) -> Lookup:
        """Lower one custom op of a table."""
        path = table_of(node)
        assert path is not None
        self._builder.begin(node)
        if node.op_type == "WholeTable":
            return self._replace_whole(path, node)
        site = self._site(path, node)
        if node.op_type == "LookupLinear":
            new = ragged_layer(self._builder, self._ragged(path), site, node)
        else:
            new = self._once(node.op_type, site)
        self._builder.end(node.outputs[0], new)
        rows, layer = site.scope, "" if node.op_type == "Lookup" else str(new.name)
        if node.op_type == "LookupSum" and not isinstance(self._tables[path], Ragged):
            rows, layer = _values_first(site.scope), ""
        return Lookup(path, str(site.ids.name), rows, site.sizes, site.offsets, layer)

    def _site(self, path: str, node: ir.Node) -> Site:
        ids = node.inputs[1]
        assert ids is not None
        sizes, offsets = (tuple(node.attributes[name].as_ints()) for name in ("sizes", "offsets"))
        key = (path, ids, _fields(sizes, offsets))
        if key not in self._scopes:
            self._scopes[key] = self._builder.scope(f"lookup/{path}/{ids.name}" if path else f"lookup/{ids.name}")
        return Site(ids, rank(ids), sizes, offsets, path, self._scopes[key])

    def _ragged(self, path: str) -> Ragged:
        table = self._tables[path]
        assert isinstance(table, Ragged)
        return table

    def _once(self, kind: str, site: Site) -> ir.Value:
        """The rows or the sum of a lookup, made once."""
        key = (kind, site.stored, site.ids, site.sizes, site.offsets)
        if key not in self._made:
            self._made[key] = self._rows(site) if kind == "Lookup" else self._summed(kind, site)
        return self._made[key]

    def _summed(self, kind: str, site: Site) -> ir.Value:
        table = self._tables[site.stored]
        if isinstance(table, Ragged):
            return ragged_sum(self._builder, table, site, {"LookupSum": SUM, "LookupPairs": PAIRS}[kind])
        rows = self._rows(replace(site, ids=self._builder.values_first(site.ids), scope=_values_first(site.scope)))
        first = self._builder.constant("axes/0", np.array([0], dtype=np.int64))
        return self._builder.op("ReduceSum", rows, first, name=f"{site.scope}/sum", keepdims=0)

    def _rows(self, site: Site) -> ir.Value:
        table = self._tables[site.stored]
        rows = _EMIT[type(table)](self._builder, table, site)
        rows.name = site.scope
        return rows

    def _replace_whole(self, path: str, node: ir.Node) -> Lookup:
        """Every row of a table: its own array where that holds them, else a lookup of all ids."""
        rows = node.inputs[0]
        assert rows is not None
        V = sizes(rows)[0]
        if (path, V) not in self._made:
            self._made[path, V] = self._whole(path, V)
        new = self._made[path, V]
        self._builder.end(node.outputs[0], new)
        return Lookup(path, "", str(new.name), (V,), (0,))

    def _whole(self, path: str, V: int) -> ir.Value:
        table, builder = self._tables[path], self._builder
        if isinstance(table, Dense) and table.rows.dtype == np.float32:
            return builder.table_array(path, "rows", table.rows)
        bounds = [builder.constant(f"ids/{n}", np.array(n, dtype=np.int64)) for n in (0, V, 1)]
        ids = builder.op("Range", *bounds, name=f"ids/all_of_{path}")
        ids.shape, ids.type = ir.Shape([V]), ir.TensorType(ir.DataType.INT64)
        return self._rows(Site(ids, 1, (V,), (0,), path, f"lookup/{path}"))

    def replace_plain(self, node: ir.Node) -> None:
        """A lookup in a matrix that is no table: a Gather behind the guard; a whole matrix is itself."""
        self._builder.begin(node)
        rows, old = node.inputs[0], node.outputs[0]
        assert rows is not None
        if node.op_type == "WholeTable":
            self._builder.end(old, self._builder.op("Identity", rows, name=f"{old.name}/rows"))
            return
        numbers = self._builder.row_numbers(self._site("", node))
        self._builder.end(old, self._builder.op("Gather", rows, numbers, name=f"{old.name}/rows", axis=0))

    def replace_decode(self, node: ir.Node) -> None:
        """Rows of coordinates: a product with each column's basis; `[B, K, k]` with its columns first."""
        self._builder.begin(node)
        z, bases = node.inputs[:2]
        assert z is not None
        assert bases is not None
        name, fields = self._builder.scope(f"decode/{z.name}"), list(node.attributes["fields"].as_ints())
        if len(set(fields)) == 1:
            basis = self._builder.op("Gather", bases, self._index(fields[0]), name=f"{name}/basis", axis=0)
            self._builder.end(node.outputs[0], self._builder.op("MatMul", z, basis, name=f"{name}/rows"))
            return
        chosen = self._builder.op("Gather", bases, self._index(fields), name=f"{name}/bases", axis=0)  # [K, k, D]
        if rank(z) == 3:
            flat = self._builder.op("Transpose", z, name=f"{name}/columns", perm=[1, 0, 2])  # [K, B, k]
            rows = self._builder.op("MatMul", flat, chosen, name=f"{name}/decoded")
            back = self._builder.op("Transpose", rows, name=f"{name}/rows", perm=[1, 0, 2])
        else:
            axis = self._builder.constant("axes/-2", np.array([-2], dtype=np.int64))
            single = self._builder.op("Unsqueeze", z, axis, name=f"{name}/columns")  # […, K, 1, k]
            rows = self._builder.op("MatMul", single, chosen, name=f"{name}/decoded")
            back = self._builder.op("Squeeze", rows, axis, name=f"{name}/rows")
        self._builder.end(node.outputs[0], back)

    def _index(self, fields: int | list[int]) -> ir.Value:
        text = "_".join(map(str, np.atleast_1d(fields)))
        return self._builder.constant(f"bases/{text}", np.array(fields, dtype=np.int64))
