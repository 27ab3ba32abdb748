"""Proof that nothing of the selection network is left, and that every weight is accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.swap import frozen_tables, tables_of
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.graph.facts import CONSTANT, TABLE, WEIGHT, fact, scopes_of
from amtl_export.graph.segments import Segment
from amtl_export.graph.weights import INT8_FORMS, PAIRS, Part

#: Two units in the last place of float32.
_ROUNDING = 2**-22

#: Initializers up to this many numbers may be constants of the graph (shapes, axes, bounds).
CONSTANT_SIZE = 16


@dataclass(frozen=True)
class Provenance:
    """What a graph holds that it should not.

    Attributes:
        selector_nodes: names of nodes that came from a module that freezing deletes.
        selector_initializers: names of initializers that are, by name or bits, parameters that it deletes.
        unexplained: initializers that are neither table, backbone parameter nor small constant.
        changed: backbone parameters whose bits differ from the run's.
        missing: backbone parameters that the graph does not hold.
    """

    selector_nodes: list[str]
    selector_initializers: list[str]
    unexplained: list[str]
    changed: list[str]
    missing: list[str]


def trace_provenance(model: Path, frozen: FrozenModel) -> Provenance:
    """Compare a graph with the model before and after freezing.

    The exporter folds a batch norm into the weights beside it: those of a user's module that has one are judged by its
    answers alone.

    Args:
        model: `model.onnx`, its external data beside it.
        frozen: the model, and the one that it was frozen from.
    """
    graph = load_graph(model).graph
    deleted_modules, deleted = _deleted(frozen)
    digests = {digest(array) for array in deleted.values() if array.size > 1}
    nodes = [node.name or node.op_type for node in graph if deleted_modules.intersection(scopes_of(node))]
    selectors = [
        name
        for name, value in graph.initializers.items()
        if fact(value, WEIGHT) in deleted or (digests and _array(value).size > 1 and digest(_array(value)) in digests)
    ]
    unexplained, changed, missing = _weights(graph, frozen.module.model, set(selectors))
    if frozen.data is None:
        folds = any(isinstance(part, nn.modules.batchnorm._NormBase) for part in frozen.module.model.modules())
        return Provenance(nodes, selectors, [], [] if folds else changed, [])
    return Provenance(nodes, selectors, unexplained, changed, missing)


def _deleted(frozen: FrozenModel) -> tuple[set[str], dict[str, npt.NDArray[Any]]]:
    """Modules and parameters of the trained model that freezing took out, its tables apart."""
    original = frozen.compressed.original if frozen.compressed else frozen
    if original is None or original.trained is None:
        return set(), {}
    trained, kept = original.trained.model, frozen.module.model
    tables = {f"{path}.{name}" for path in frozen_tables(kept) for name in ("weight", "table.weight")}
    tables |= {f"{h.path}.{h.name}" for table in tables_of(trained) for h in table.holders}
    state = kept.state_dict()
    gone = {
        name: p.detach().numpy() for name, p in trained.named_parameters() if name not in state | dict.fromkeys(tables)
    }
    return _modules(trained) - _modules(kept), gone


def _weights(graph: ir.Graph, model: nn.Module, selectors: set[str]) -> tuple[list[str], list[str], list[str]]:
    """Initializers that nothing explains, those whose bits are not the model's, and parameters that are not there."""
    tables = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, FrozenEmbedding))
    tensors = dict(model.named_buffers()) | model.state_dict()  # buffers that are not saved are in the graph too
    kept = {name: value.numpy() for name, value in tensors.items() if not name.startswith(tables)}
    parameters = {name for name, _ in model.named_parameters()}
    columns: dict[tuple[str, bool, tuple[Segment, ...]], set[int]] = {}
    unexplained, changed = [], []
    for name, value in graph.initializers.items():
        array, weight, part = _array(value), fact(value, WEIGHT), Part.described(value)
        if name in selectors or fact(value, TABLE) or fact(value, CONSTANT):
            continue
        if weight is not None and weight in kept:
            expected = _expected(part, weight, kept)
            if expected is not None and weight in parameters:
                key = (weight, part.transposed, part.fold) if part else (weight, False, ())
                columns.setdefault(key, set()).update(part.columns if part else range(_width(kept[weight])))
            if expected is None or not _is_weight(array, part, expected):
                changed.append(name)
        elif array.size > CONSTANT_SIZE:
            unexplained.append(name)
    held = {
        name
        for (name, transposed, fold), present in columns.items()
        if len(present) == _width(Part(name, (), transposed=transposed, fold=fold).turned(kept[name], kept))
    }
    missing = sorted(name for name in parameters if name in kept and name not in held)
    return unexplained, changed, missing


def weights_explained(graph: ir.Graph, frozen: FrozenModel) -> set[str]:
    """Initializers that are weights of the model or parts of one: its bits; to a rounding where bases are folded in."""
    tensors = dict(frozen.module.model.named_buffers()) | frozen.module.model.state_dict()
    kept = {name: value.cpu().numpy() for name, value in tensors.items()}
    explained = set()
    for name, value in graph.initializers.items():
        weight, part = fact(value, WEIGHT), Part.described(value)
        if weight is None or weight not in kept:
            continue
        expected = _expected(part, weight, kept)
        if expected is not None and _is_weight(_array(value), part, expected):
            explained.add(name)
    return explained


def _expected(part: Part | None, weight: str, kept: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """A weight, or a part of it; None where the model can have no such part: metadata may say anything."""
    if part is None:
        return kept[weight]
    try:
        expected = part.of(kept[weight], kept)
    except (KeyError, IndexError, ValueError):  # unknown bases, fields and columns, widths that do not add up
        return None
    return expected if expected.size else None


def _is_weight(array: npt.NDArray[Any], part: Part | None, expected: npt.NDArray[Any]) -> bool:
    """Whether an initializer is a weight, or a part of it: bit for bit, or to a rounding with bases folded in.

    A layer in int8 is held against PyTorch's to the last bit, so its whole numbers are these and no others.
    """
    if part is None or not part.fold or part.form in INT8_FORMS:
        return same_bits(array, expected)
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return False
    if array.dtype == np.uint8:  # a quantized number may lie on the edge between two
        return bool((np.abs(array.astype(np.int16) - expected.astype(np.int16)) <= 1).all())
    largest = np.abs(expected).max(initial=0.0) if part.form == PAIRS else 0.0  # sums of both signs may be near zero
    return bool(np.allclose(array, expected, rtol=_ROUNDING, atol=_ROUNDING * largest))


def _width(array: npt.NDArray[Any]) -> int:
    """Columns; one of a single number."""
    return array.shape[-1] if array.ndim else 1


def _array(value: ir.Value) -> npt.NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def load_graph(model: Path) -> ir.Model:
    """The graph with every weight readable.

    Raises:
        ValidationFailed: graph or weights are truncated or corrupted.
    """
    try:
        loaded = ir.load(model)
        for value in loaded.graph.initializers.values():
            assert value.const_value is not None
            value.const_value.numpy()
    except Exception as error:  # protobuf, numpy and the file system each have their own
        raise ValidationFailed("graph or weights cannot be read", where=model, found=error) from None
    return loaded


def _modules(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_modules() if name}


def digest(array: npt.NDArray[Any]) -> bytes:
    """SHA-256 of an array's bits."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays have the same shape, type and bits."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )
