"""Proof that nothing of the selection network is left, and that every weight is accounted for."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import frozen_tables
from amtl_export.graph.weights import WRAPPER, Part

#: Initializers up to this many numbers may be constants of the graph (shapes, axes, bounds).
CONSTANT_SIZE = 16

#: Where lowering puts its own initializers.
_LAYOUT_SCOPES = ("table/", "ids/", "lookup/", "layer/")


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


def trace_provenance(model: Path, trained: nn.Module, frozen: nn.Module) -> Provenance:
    """Compare a graph with the model before and after freezing.

    Args:
        model: `model.onnx`, its external data beside it.
        trained: the model with its selection network.
        frozen: the same model frozen.
    """
    graph = _load(model)
    deleted_modules = _modules(trained) - _modules(frozen)
    tables = tuple(f"{path}." for path in frozen_tables(frozen))
    tensors = dict(frozen.named_buffers()) | frozen.state_dict()  # buffers that are not saved are in the graph too
    kept = {name: value.numpy() for name, value in tensors.items() if not name.startswith(tables)}
    own_tables = {f"{path}.{name}" for path in frozen_tables(frozen) for name in ("weight", "table.weight")}
    deleted = {
        name: value.detach().numpy()
        for name, value in trained.named_parameters()
        if name not in frozen.state_dict() and name not in own_tables
    }
    digests = {_digest(array): name for name, array in deleted.items() if array.size > 1}
    # The exporter folds the transpose of a weight without bias into a constant of another name.
    turned = {_digest(array.T): name for name, array in kept.items() if array.ndim == 2}
    held = {name.removeprefix(WRAPPER) for name in graph.initializers}
    nodes = [node.name or node.op_type for node in graph if _scopes(node) & deleted_modules]
    selectors, unexplained, changed = [], [], []
    held_columns: dict[str, set[int]] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        path = name.removeprefix(WRAPPER)
        if path in deleted or (tensor.size > 1 and _digest(tensor.numpy()) in digests):
            selectors.append(name)
        elif name.startswith(_LAYOUT_SCOPES):
            continue
        elif path in kept:
            if not same_bits(tensor.numpy(), kept[path]):
                changed.append(name)
        elif (part := Part.named(name)) and (whole := part.whole.removeprefix(WRAPPER)) in kept:
            held_columns.setdefault(whole, set()).update(part.columns)
            if not same_bits(tensor.numpy(), part.of(kept[whole])):
                changed.append(name)
        elif _digest(tensor.numpy()) in turned:
            held.add(turned[_digest(tensor.numpy())])
        elif tensor.size > CONSTANT_SIZE:
            unexplained.append(name)
    held |= {name for name, columns in held_columns.items() if len(columns) == kept[name].shape[-1]}
    missing = sorted(name for name, _ in frozen.named_parameters() if name in kept and name not in held)
    return Provenance(nodes, selectors, unexplained, changed, missing)


def _load(model: Path) -> ir.Graph:
    """The graph with every weight readable.

    Raises:
        ValidationFailed: graph or weights are truncated or corrupted.
    """
    try:
        graph = ir.load(model).graph
        for value in graph.initializers.values():
            assert value.const_value is not None
            value.const_value.numpy()
    except Exception as error:  # protobuf, numpy and the file system each have their own
        raise ValidationFailed("graph or weights cannot be read", where=model, found=error) from None
    return graph


def _modules(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_modules() if name}


def _scopes(node: ir.Node) -> set[str]:
    """Paths of the modules that a node came from."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {text}
    return {str(scope).removeprefix(WRAPPER) for scope in scopes}


def _digest(array: npt.NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays have the same shape, type and bits."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )
