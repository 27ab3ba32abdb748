"""Every id of every lookup through the graph itself, bit for bit, ids outside the tables included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.graph.facts import TABLE, fact
from amtl_export.graph.lookups import Lookup
from amtl_export.graph.ragged import GATHER
from amtl_export.graph.weights import bytes_of
from amtl_export.native import DOMAIN
from amtl_export.runtime.session import Provider, first_line, open_session
from amtl_export.validation.provenance import load_graph

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

#: Floats that one probe may answer with: bounds memory.
_PROBE_FLOATS = 1 << 20


@dataclass(frozen=True)
class RowCheck:
    """What probing the lookups found.

    Attributes:
        rows: ids probed, each once.
        equal: of them, answered with the source's bits.
        out_of_range: ids outside the tables that were probed.
        wrong: the first few differences, in words.
    """

    rows: int
    equal: int
    out_of_range: int
    wrong: list[str]


def out_of_range_ids(size: int) -> list[int]:
    """Ids outside `[0, size)` that have broken lookups before."""
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    return [-1, -size, -size - 1, size, size + 1, 2**31, 2**32, -(2**31), 2**62, -(2**62), low, high]


class Probe:
    """The lookups of a bundle's graph, and nothing before or behind them: the same nodes and arrays, any ids.

    Args:
        bundle: whose graph.
        provider: where it runs.
        optimized: all graph optimisations and the native operators, or neither; on CUDA the native operators always,
            since parts of their functions run on the CPU alone.

    Raises:
        ValidationFailed: a lookup that the signature names is not in the graph.
        EnvironmentLacks: the provider is missing.
    """

    def __init__(self, bundle: Bundle, provider: Provider, *, optimized: bool) -> None:
        model = _lookups_alone(bundle)
        self._shapes = {
            str(value.name): tuple(size if isinstance(size, int) else 0 for size in value.shape or ())
            for value in model.graph.inputs
        }
        self._session = open_session(
            ir.to_proto(model).SerializeToString(),
            provider=provider,
            optimized=optimized,
            weights=bundle.path,
            native=None if optimized or provider == "cuda" else False,
        )

    def lookup(self, site: Lookup, ids: Ids) -> Floats:
        """float32 `[n, K, D]`: the graph's rows for ids `[n, K]`; for a table that is read whole, those of its ids."""
        feed = {name: np.zeros(shape, dtype=np.int64) for name, shape in self._shapes.items()}
        if not site.input:
            return self._run(site, feed)[ids]
        feed[site.input] = self._shaped(ids, len(self._shapes[site.input]))
        rows = self._run(site, feed)
        return rows.reshape(*ids.shape, rows.shape[-1])

    @staticmethod
    def _shaped(ids: Ids, rank: int) -> Ids:
        """Ids `[n, K]` with as many axes as the graph has there: K last, ones between."""
        return ids.reshape(-1) if rank == 1 else ids.reshape(len(ids), *[1] * (rank - 2), ids.shape[1])

    def _run(self, site: Lookup, feed: dict[str, Ids]) -> Floats:
        try:
            rows: Floats = self._session.run([site.output], feed)[0]
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise ValidationFailed("the graph fails on an id", where=site.input, found=first_line(error)) from error
        return rows


def _lookups_alone(bundle: Bundle) -> ir.Model:
    """The graph between the ids of its lookups and their rows."""
    model = bundle.graph()
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs} | dict(graph.initializers)
    wanted = []
    for site in bundle.signature.lookups:
        layer = values.get(site.layer) if site.layer else None
        if layer is not None:
            values[site.output] = _rows_of_layer(graph, layer, site)
        elif site.output not in values:
            raise ValidationFailed("the graph lacks a lookup that the signature names", found=site.output)
        wanted.append(values[site.output])
    ids = {site.input: len(site.sizes) for site in bundle.signature.lookups if site.input}
    known = {str(value.name): value for value in graph.inputs} | {str(n): v for n, v in values.items() if n in ids}
    taken = [_free(known[name], name, columns) for name, columns in ids.items() if name in known]
    graph.inputs[:] = taken
    graph.outputs[:] = [_as_output(graph, value) for value in wanted]
    _keep_alone(graph, graph.outputs)
    passes.RemoveUnusedNodesPass()(model)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    for node in graph:
        for value in node.outputs:
            value.shape = None
    return model


def _keep_alone(graph: ir.Graph, wanted: Iterable[ir.Value]) -> None:
    """Take out every node that does not lead to some values; a loop's body reads values that no input names."""
    kept: set[ir.Node] = set()
    waiting = [node for value in wanted if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node not in kept:
            kept.add(node)
            waiting += [above for value in node.inputs if value is not None and (above := value.producer()) is not None]
    for node in reversed(list(graph)):
        if node not in kept:
            for own in node.attributes.values():
                for body in own.value if own.type == ir.AttributeType.GRAPHS else [own.value]:
                    if isinstance(body, ir.Graph):
                        _empty(body)
            graph.remove(node, safe=False)
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)


def _empty(graph: ir.Graph) -> None:
    """Let a body's nodes read nothing any more."""
    for node in graph:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _free(value: ir.Value, name: str, columns: int) -> ir.Value:
    """An input of int64 ids of any sizes in the place of a value; its columns stay as many as the lookup's fields."""
    rank = max(1, len(value.shape or ()))
    free = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64))
    last = [] if rank == 1 else [columns if columns > 1 else f"{name}_last"]
    free.shape = ir.Shape([f"{name}_rows", *(f"{name}_{axis}" for axis in range(rank - len(last) - 1)), *last])
    if value.producer() is not None:
        value.name = f"{name}/computed"
    ir.convenience.replace_all_uses_with(value, free)
    return free


def _as_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A value that a graph may give: an initializer is copied by a node."""
    if not value.is_initializer():
        return value
    name = str(value.name)
    node = ir.node("Identity", [value])
    graph.initializers.pop(name)
    value.name = f"{name}/stored"
    graph.initializers[value.name] = value
    node.outputs[0].name, node.outputs[0].type = name, value.type
    graph.append(node)
    return node.outputs[0]


def _rows_of_layer(graph: ir.Graph, layer: ir.Value, site: Lookup) -> ir.Value:
    """The lookup that a fused layer makes, alone: the same arrays and ids."""
    node = layer.producer()
    assert node is not None
    attributes = [attribute for name, attribute in node.attributes.items() if name != "least"]
    lookup = ir.Node(DOMAIN, GATHER, node.inputs[:6], attributes)
    rows = lookup.outputs[0]
    rows.name, rows.dtype = site.output, ir.DataType.FLOAT
    graph.append(lookup)
    return rows


def check_rows(bundle: Bundle, frozen: FrozenModel, provider: Provider, *, optimized: bool) -> RowCheck:
    """Probe every id of every lookup, then ids outside the tables unless the bundle trusts its ids.

    Args:
        bundle: whose graph.
        frozen: the source, its rows quantized as the bundle's are.
        provider: where the graph runs.
        optimized: see `Probe`.

    Raises:
        ValidationFailed: the graph cannot be probed.
    """
    probe = Probe(bundle, provider, optimized=optimized)
    checked = _Checked()
    for site in bundle.signature.lookups:
        if site.table not in frozen.tables:
            raise InputError("a lookup's table is not in the source", where=bundle.path, found=site.table)
        table = frozen.tables[site.table]
        sizes, offsets = np.array(site.sizes), np.array(site.offsets)
        names = _field_names(bundle, site)
        for ids in _every_id(sizes, table.rows.shape[1]):
            inside = np.minimum(ids, sizes - 1)
            same = checked.hold(names, ids, probe.lookup(site, inside), _read(table, inside + offsets), ids < sizes)
            checked.rows += int((ids < sizes).sum())
            checked.equal += int((same & (ids < sizes)).sum())
        if bundle.signature.id_policy == "guard" and site.input:
            ids = np.array([out_of_range_ids(int(size)) for size in sizes], dtype=np.int64).T
            found = probe.lookup(site, ids)
            checked.hold(
                names, ids, found, np.broadcast_to(_read(table, offsets), found.shape), np.ones(ids.shape, bool)
            )
            checked.out_of_range += ids.size
    return RowCheck(checked.rows, checked.equal, checked.out_of_range, checked.wrong[:5])


def _read(table: FrozenEmbedding, places: Ids) -> Floats:
    rows: Floats = table.read(torch.from_numpy(places)).numpy()
    return rows


@dataclass
class _Checked:
    rows: int = 0
    equal: int = 0
    out_of_range: int = 0
    wrong: list[str] = field(default_factory=list)

    def hold(
        self, names: list[str], ids: Ids, found: Floats, expected: Any, counts: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Which rows have the bits that are expected, `[n, K]`; those that count and do not are noted."""
        same: npt.NDArray[np.bool_] = (_bits(found) == _bits(expected)).all(axis=-1)
        self.wrong += _describe(names, ids, same | ~counts, found, expected)
        return same


def _bits(rows: Any) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)


def _field_names(bundle: Bundle, site: Lookup) -> list[str]:
    """The field of each column of a lookup, by where its rows are."""
    by_row = {(own.table, own.offset): own.name for own in reversed(bundle.signature.fields)}
    return [by_row.get((site.table, offset), site.table) for offset in site.offsets]


def _every_id(sizes: Ids, dim: int) -> Iterator[Ids]:
    """int64 `[n, K]` blocks counting through the largest field."""
    step = max(1, _PROBE_FLOATS // (dim * len(sizes)))
    for start in range(0, int(sizes.max()), step):
        ids = np.arange(start, min(start + step, int(sizes.max())), dtype=np.int64)
        yield np.repeat(ids[:, None], len(sizes), axis=1)


def _describe(names: list[str], ids: Ids, good: npt.NDArray[np.bool_], found: Floats, expected: Any) -> list[str]:
    lines = []
    for row, column in np.argwhere(~good)[:3]:
        a, b = found[row, column], expected[row, column]
        at = int(np.flatnonzero(_bits(a) != _bits(b))[0])
        name = names[column % len(names)]
        lines.append(f"field {name}, id {ids[row, column]}, dim {at}: found {a[at]!r}, the source has {b[at]!r}")
    return lines


def table_bytes(bundle: Bundle, frozen: FrozenModel) -> int:
    """Bytes of the tables' arrays and projections, from the graph itself."""
    graph = load_graph(bundle.model)
    values = graph.graph.initializers.values()
    tables = sum(value.const_value.nbytes for value in values if fact(value, TABLE) and value.const_value is not None)
    return int(tables) + bytes_of(graph, frozen.projections)
