"""One model from attach to a fresh batch in ONNX Runtime: how far it came, and how right it is."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import Inputs, Model, tables
from torch import Tensor, nn
from torch.utils import _pytree

import amtl_export
from amtl_export.models.config import SelectionConfig
from amtl_export.runtime.session import open_session

EXAMPLE_ROWS, FRESH_ROWS = 16, 77
TOLERANCE = 1e-5  # of the largest answer, or of 1 where all are smaller


@dataclass
class Case:
    """What was found. A stage that was not reached is empty; one that failed is named, with its error."""

    library: str
    name: str
    stage: str = "build"
    error: str | None = None
    tables: int | None = None
    problems: list[str] | None = None
    max_abs_diff: float | None = None
    largest_answer: float | None = None
    bytes_bundle: int | None = None
    bytes_tables: int | None = None
    bytes_parameters: int | None = None
    seconds: float | None = None

    @property
    def right(self) -> bool:
        """Exported, nothing found by validation, and a fresh batch answered as by the module."""
        if self.stage != "done" or self.problems or self.max_abs_diff is None or self.largest_answer is None:
            return False
        return self.max_abs_diff <= TOLERANCE * max(1.0, self.largest_answer)


def check(model: Model, folder: Path, note: Callable[[Case], None]) -> Case:
    """Every stage in turn; `note` gets the case as it stands before each, for a process that does not come back."""
    case, started = Case(model.library, model.name), time.monotonic()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            _stages(model, folder, case, note)
    except Exception as error:
        case.error = first_line(error)
    case.seconds = round(time.monotonic() - started, 1)
    note(case)
    return case


def _stages(model: Model, folder: Path, case: Case, note: Callable[[Case], None]) -> None:
    module = model.module()
    found = tables(module)
    case.tables, case.bytes_tables = len(found), sum(_bytes(table.weight) for table in found.values())
    case.bytes_parameters = sum(_bytes(parameter) for parameter in module.parameters())
    _to(case, "attach", note)
    falling = {name: torch.arange(table.num_embeddings, 0, -1) for name, table in found.items()}
    amtl_export.attach(module, falling, SelectionConfig(initial_ratio=0.5))
    module.eval()
    _to(case, "export", note)
    example = model.inputs(EXAMPLE_ROWS, seed=1)
    frozen = amtl_export.freeze(module, example=example, outputs=model.outputs, dynamic_shapes=model.dynamic_shapes)
    bundle = amtl_export.export(frozen, folder, amtl_export.ExportConfig())
    case.bytes_bundle = sum(file.stat().st_size for file in Path(bundle.path).glob("model.onnx*"))
    _to(case, "validate", note)
    case.problems = list(amtl_export.validate(bundle.path, module, model.inputs(64, seed=2)).problems)
    _to(case, "answer", note)
    case.max_abs_diff, case.largest_answer = distance(bundle.path, module, model.inputs(FRESH_ROWS, seed=3))
    case.stage = "done"


def _to(case: Case, stage: str, note: Callable[[Case], None]) -> None:
    case.stage = stage
    note(case)


def distance(bundle: Path, module: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """Largest difference between the bundle in ONNX Runtime, fed by name, and the module; and the largest answer."""
    session = open_session(Path(bundle) / "model.onnx")
    found = session.run(None, feed(inputs, [value.name for value in session.get_inputs()]))
    with torch.no_grad():
        leaves = _pytree.tree_leaves(module(**inputs))
    expected = [value.double().numpy() for value in leaves if isinstance(value, Tensor)]
    if [value.shape for value in found] != [value.shape for value in expected]:
        raise ValueError(f"shapes {[v.shape for v in found]} instead of {[v.shape for v in expected]}")
    apart = [np.abs(a - b).max(initial=0.0) for a, b in zip(found, expected, strict=True)]
    return float(np.max(apart)), float(max(np.abs(value).max(initial=0.0) for value in expected))


def feed(inputs: Inputs, names: list[str]) -> dict[str, Any]:
    """The leaves of nested inputs under the names of a graph: the last key of each, else all keys, else its place."""
    leaves, _ = _pytree.tree_flatten_with_path(inputs)
    given = [([str(getattr(key, "key", getattr(key, "idx", key))) for key in path], leaf) for path, leaf in leaves]
    tensors = [(keys, leaf) for keys, leaf in given if isinstance(leaf, Tensor)]
    by_name = {"_".join(keys[start:]): leaf for keys, leaf in tensors for start in range(len(keys))}
    if set(names) <= set(by_name):
        return {name: by_name[name].numpy() for name in names}
    return {name: leaf.numpy() for name, (_, leaf) in zip(names, tensors, strict=True)}


def first_line(error: BaseException) -> str:
    """The error that began it, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
