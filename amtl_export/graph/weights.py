"""Parts of a model's weights as initializers, which say in their metadata what they are parts of.

`facts.WEIGHT` names the weight, `COLUMNS` its columns in order (`0:64,128:192`), `FORM` how they lie: `columns`;
`panels` of a RaggedLinear; `quantized_64`, as a RaggedLinearInt8 over rows of 64 numbers takes them, and `scales`.
`TRANSPOSED` says that they are columns of the transposed weight.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from amtl_export.freezing.frozen import frozen_tables
from amtl_export.graph.facts import COLUMNS as COLUMNS_FACT
from amtl_export.graph.facts import FORM, TRANSPOSED, WEIGHT, fact
from amtl_export.graph.ragged import fake_quantized_weight, panels, quantized_panels, scales_of
from amtl_export.graph.rewrite import initializer

COLUMNS, PANELS, SCALES, QUANTIZED = "columns", "panels", "scales", "quantized_"

M = TypeVar("M", bound=nn.Module)


def quantized_form(dim: int) -> str:
    """The form of a weight that is quantized over rows of `dim` numbers."""
    return f"{QUANTIZED}{dim}"


@dataclass(frozen=True)
class Part:
    """Some columns (positions on the last axis) of a weight.

    Attributes:
        weight: the weight's name in the model.
        columns: which, in order.
        form: how they lie: `columns`, `panels`, `quantized_D`, or `scales` of quantized ones.
        transposed: whether they are columns of the transposed weight.
    """

    weight: str
    columns: tuple[int, ...]
    form: str = COLUMNS
    transposed: bool = False

    @property
    def facts(self) -> dict[str, str]:
        """As metadata."""
        turned = {TRANSPOSED: "yes"} if self.transposed else {}
        return {WEIGHT: self.weight, COLUMNS_FACT: _written(self.columns), FORM: self.form} | turned

    @classmethod
    def described(cls, value: ir.Value) -> Part | None:
        """What an initializer's metadata says that it is a part of; None if it is none, or a whole."""
        weight, ranges, form = (fact(value, key) for key in (WEIGHT, COLUMNS_FACT, FORM))
        if weight is None or ranges is None or form is None:
            return None
        ends = [span.split(":") for span in ranges.split(",")]
        columns = tuple(i for begin, end in ends for i in range(int(begin), int(end)))
        return cls(weight, columns, form, fact(value, TRANSPOSED) is not None)

    def of(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part, from the whole array."""
        turned = whole.T if self.transposed else whole
        return arranged(np.ascontiguousarray(turned[..., list(self.columns)]), self.form)


def arranged(weight: npt.NDArray[Any], form: str) -> npt.NDArray[Any]:
    """A weight in a form."""
    if form == COLUMNS:
        return weight
    if form == PANELS:
        return panels(weight)
    return scales_of(weight) if form == SCALES else quantized_panels(weight, int(form.removeprefix(QUANTIZED)))


def part_of(graph: ir.Graph, value: ir.Value, columns: Sequence[int], form: str = COLUMNS) -> ir.Value:
    """An initializer with some columns of another one, which may be a part itself."""
    array, known, weight = _array(value), Part.described(value), fact(value, WEIGHT)
    if form == COLUMNS and list(columns) == list(range(array.shape[-1])):
        return value
    of_whole = tuple(known.columns[i] for i in columns) if known else tuple(columns)
    part = Part(str(weight or value.name), of_whole, form, known is not None and known.transposed)
    turned = "transposed/" if part.transposed else ""
    name = f"{form}/{_written(of_whole)}/{turned}{part.weight}"
    chosen = np.ascontiguousarray(array[..., list(columns)])
    return initializer(graph, name, arranged(chosen, form), part.facts if weight is not None else {})


def transposed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An initializer with the transpose of another one; the weight itself where that is its transpose."""
    array, known, weight = np.ascontiguousarray(_array(value).T), Part.described(value), fact(value, WEIGHT)
    if weight is None:
        return initializer(graph, f"transposed/{value.name}", array)
    if known is not None and known.transposed:
        same = (v for v in graph.initializers.values() if fact(v, WEIGHT) == weight and Part.described(v) is None)
        return next(same, None) or initializer(graph, f"weight/{weight}", array, {WEIGHT: weight})
    part = Part(weight, tuple(range(array.shape[-1])), transposed=True)
    return initializer(graph, f"transposed/{weight}", array, part.facts)


def _array(value: ir.Value) -> npt.NDArray[Any]:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def with_quantized_weights(module: M, graph: ir.Model) -> M:
    """The module with fake-quantized weights where a graph has them quantized; the module itself if it has none.

    Args:
        module: frozen, as it was exported; the copy shares its tables.
        graph: the bundle's.
    """
    exact = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    parts = [Part.described(value) for value in graph.graph.initializers.values()]
    quantized = [part for part in parts if part and part.form == SCALES and part.weight in exact]
    if not quantized:
        return module
    reference = copy.deepcopy(module, {id(table): table for table in frozen_tables(module).values()})
    for part in quantized:
        columns, weight, whole = list(part.columns), reference.get_parameter(part.weight).data, exact[part.weight]
        weight, whole = (weight.T, whole.T) if part.transposed else (weight, whole)
        weight[:, columns] = torch.from_numpy(fake_quantized_weight(whole[:, columns]))
    return reference


def _written(columns: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as 0:3,6:8."""
    starts = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1] + 1]
    ends = [*starts[1:], len(columns)]
    return ",".join(f"{columns[a]}:{columns[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
