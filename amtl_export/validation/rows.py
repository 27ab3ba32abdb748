"""Every id of every field through the graph's own lookup, bit for bit, out-of-range ids included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.inputs import Feed
from amtl_export.bundle.signature import LookupSite
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.ragged import GATHER
from amtl_export.native import DOMAIN
from amtl_export.runtime.session import Provider, open_session

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

#: Floats that one probe may answer with: bounds memory.
_PROBE_FLOATS = 1 << 24


@dataclass(frozen=True)
class RowCheck:
    """What probing the lookups found.

    Attributes:
        rows: ids probed, each once.
        equal: of them, answered with the run's bits.
        out_of_range: out-of-range ids probed.
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
    """The lookups of a bundle's graph, and nothing behind them: the same nodes and arrays, any number of rows.

    Args:
        bundle: whose graph.
        provider: where it runs.
        optimized: all graph optimisations and the native operators, or neither; on CUDA the native operators always,
            since parts of their function bodies run on the CPU alone.

    Raises:
        ValidationFailed: a lookup that the signature names is not in the graph.
        EnvironmentLacks: the provider is missing.
    """

    def __init__(self, bundle: Bundle, provider: Provider, *, optimized: bool) -> None:
        model = _lookups_alone(bundle)
        self._taken = {value.name: value for value in model.graph.inputs}
        self._session = open_session(
            ir.to_proto(model).SerializeToString(),
            provider=provider,
            optimized=optimized,
            weights=bundle.path,
            native=None if optimized or provider == "cuda" else False,
        )

    def lookup(self, site: LookupSite, ids: Ids) -> Floats:
        """float32 `[n, K, D]`: the graph's rows for ids `[n, K]` of one input."""
        feed: Feed = {}
        for name, value in self._taken.items():
            assert name is not None
            assert value.shape is not None
            columns = value.shape[1]
            feed[name] = np.zeros((len(ids), columns if isinstance(columns, int) else 1), dtype=np.int64)
        feed[site.input] = ids
        try:
            rows: Floats = self._session.run([site.output], feed)[0]
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise ValidationFailed(
                "the graph fails on an id", where=site.input, found=str(error).splitlines()[0]
            ) from error
        return rows


def _lookups_alone(bundle: Bundle) -> ir.Model:
    """The graph cut off behind its lookups, its inputs with as many rows as one likes."""
    model = ir.from_proto(bundle.proto())
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    wanted = []
    for site in bundle.signature.lookups:
        layer = values.get(site.layer) if site.layer else None
        if layer is not None:
            values[site.output] = _rows_of_layer(graph, layer, site)
        elif site.output not in values:
            raise ValidationFailed("the graph lacks a lookup that the signature names", found=site.output)
        wanted.append(values[site.output])
    graph.outputs[:] = wanted
    passes.RemoveUnusedNodesPass()(model)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    for value in graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape(["rows", *value.shape.dims[1:]])
    for node in graph:
        for value in node.outputs:
            value.shape = None
    return model


def _rows_of_layer(graph: ir.Graph, layer: ir.Value, site: LookupSite) -> ir.Value:
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
    """Probe every id of every field, then out-of-range ids unless the bundle trusts its ids.

    Raises:
        ValidationFailed: the graph cannot be probed.
    """
    probe = Probe(bundle, provider, optimized=optimized)
    positions = {field.name: i for i, field in enumerate(frozen.config.embedded)}
    rows = equal = out_of_range = 0
    wrong: list[str] = []
    for site in bundle.signature.lookups:
        fields = _fields_of(bundle, site)
        if site.table not in frozen.tables:
            raise InputError("a lookup's table is not in the run", where=bundle.path, found=site.table)
        expected_table = frozen.tables[site.table]
        table = expected_table.rows.numpy()
        sizes = np.array([expected_table.sizes[positions[f]] for f in fields])
        offsets = np.array([expected_table.offsets[positions[f]] for f in fields])
        for ids in _every_id(sizes, table.shape[1]):
            answered = probe.lookup(site, np.minimum(ids, sizes - 1))
            counts = ids < sizes
            expected = table[np.minimum(ids, sizes - 1) + offsets]
            same = _equal(answered, expected)
            rows += int(counts.sum())
            equal += int((same & counts).sum())
            wrong += _describe(fields, ids, same | ~counts, answered, expected)
        if bundle.signature.id_policy == "guard":
            ids = np.array([out_of_range_ids(int(size)) for size in sizes], dtype=np.int64).T
            answered = probe.lookup(site, ids)
            expected = np.broadcast_to(table[offsets], answered.shape)
            same = _equal(answered, expected)
            out_of_range += ids.size
            wrong += _describe(fields, ids, same, answered, expected)
    return RowCheck(rows, equal, out_of_range, wrong[:5])


def _fields_of(bundle: Bundle, site: LookupSite) -> list[str]:
    for tensor in bundle.signature.inputs:
        if tensor.name == site.input:
            return [column.field for column in tensor.columns]
    raise InputError("a lookup's input is not in the signature", where=bundle.path, found=site.input)


def _every_id(sizes: Ids, dim: int) -> Iterator[Ids]:
    """int64 `[n, K]` blocks counting through the largest field."""
    step = max(1, _PROBE_FLOATS // (dim * len(sizes)))
    for start in range(0, int(sizes.max()), step):
        ids = np.arange(start, min(start + step, int(sizes.max())), dtype=np.int64)
        yield np.repeat(ids[:, None], len(sizes), axis=1)


def _equal(a: Floats, b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """bool `[n, K]`: rows with the same bits."""
    same: npt.NDArray[np.bool_] = (a.view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)).all(axis=-1)
    return same


def _describe(fields: list[str], ids: Ids, good: npt.NDArray[np.bool_], rows: Floats, expected: Any) -> list[str]:
    lines = []
    for row, column in np.argwhere(~good)[:3]:
        a, b = rows[row, column], expected[row, column]
        at = int(np.flatnonzero(a.view(np.uint32) != np.ascontiguousarray(b).view(np.uint32))[0])
        lines.append(f"field {fields[column]}, id {ids[row, column]}, dim {at}: found {a[at]!r}, the run has {b[at]!r}")
    return lines
