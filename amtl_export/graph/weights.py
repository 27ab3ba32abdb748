"""Parts of a module's weights as initializers whose names say what they are parts of.

`columns/0:64,128:192/model.backbone.layers.1.weight` holds those columns of that weight, in that order;
`panels/…` the same in the panels of a RaggedLinear; `quantized_64/…` and `scales/…` the same quantized, as a
RaggedLinearInt8 over rows of 64 numbers takes them, and their scales.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from amtl_export.freezing.frozen import frozen_tables
from amtl_export.graph.ragged import fake_quantized_weight, panels, quantized_panels, scales_of
from amtl_export.graph.rewrite import initializer

COLUMNS, PANELS, SCALES, QUANTIZED = "columns", "panels", "scales", "quantized_"

#: Where `trace` puts the exported module.
WRAPPER = "model."

M = TypeVar("M", bound=nn.Module)


def quantized_form(dim: int) -> str:
    """The form of a weight that is quantized over rows of `dim` numbers."""
    return f"{QUANTIZED}{dim}"


@dataclass(frozen=True)
class Part:
    """Some columns (positions on the last axis) of an array.

    Attributes:
        whole: the array's name.
        columns: which, in order.
        form: how they lie: `columns`, `panels`, `quantized_D`, or `scales` of quantized ones.
    """

    whole: str
    columns: tuple[int, ...]
    form: str = COLUMNS

    @property
    def name(self) -> str:
        """Of the initializer."""
        return f"{self.form}/{_written(self.columns)}/{self.whole}"

    @classmethod
    def named(cls, name: str) -> Part | None:
        """What an initializer's name says it is a part of; None if it is none."""
        form, _, rest = name.partition("/")
        ranges, _, whole = rest.partition("/")
        if not whole or not (form in (COLUMNS, PANELS, SCALES) or form.startswith(QUANTIZED)):
            return None
        ends = [span.split(":") for span in ranges.split(",")]
        return cls(whole, tuple(i for begin, end in ends for i in range(int(begin), int(end))), form)

    def of(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part, from the whole array."""
        cut = np.ascontiguousarray(whole[..., list(self.columns)])
        if self.form == COLUMNS:
            return cut
        if self.form == PANELS:
            return panels(cut)
        return scales_of(cut) if self.form == SCALES else quantized_panels(cut, int(self.form.removeprefix(QUANTIZED)))


def part_of(graph: ir.Graph, value: ir.Value, columns: Sequence[int], form: str = COLUMNS) -> ir.Value:
    """An initializer with some columns of another one, which may be a part itself."""
    assert value.name is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array, known = tensor.numpy(), Part.named(value.name)
    if form == COLUMNS and list(columns) == list(range(array.shape[-1])):
        return value
    of_whole = tuple(known.columns[i] for i in columns) if known else tuple(columns)
    part = Part(known.whole if known else value.name, of_whole, form)
    return initializer(graph, part.name, Part("", tuple(columns), form).of(array))


def with_quantized_weights(module: M, initializers: Iterable[str]) -> M:
    """The module with fake-quantized weights where a graph has them quantized; the module itself if it has none.

    Args:
        module: frozen, as it was exported; the copy shares its tables.
        initializers: names of the graph's.
    """
    exact = {f"{WRAPPER}{name}": parameter.detach().numpy() for name, parameter in module.named_parameters()}
    named = [part for part in map(Part.named, initializers) if part and part.form == SCALES and part.whole in exact]
    if not named:
        return module
    reference = copy.deepcopy(module, {id(table): table for table in frozen_tables(module).values()})
    for part in named:
        columns = list(part.columns)
        weight = reference.get_parameter(part.whole.removeprefix(WRAPPER))
        weight.data[:, columns] = torch.from_numpy(fake_quantized_weight(exact[part.whole][:, columns]))
    return reference


def _written(columns: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as 0:3,6:8."""
    starts = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1] + 1]
    ends = [*starts[1:], len(columns)]
    return ",".join(f"{columns[a]}:{columns[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
