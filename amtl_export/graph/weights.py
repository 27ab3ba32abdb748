"""Parts of a module's weights as initializers whose names say what they are parts of.

`columns/0:64,128:192/model.backbone.layers.1.weight` holds those columns of that weight, in that order;
`panels/…` the same in the panels of a RaggedLinear; `codes_64/…` and `scales/…` the same as the codes of a
RaggedLinearInt8 over rows of 64 numbers, and what they are worth.
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
from amtl_export.graph.ragged import code_panels, code_scales, panels, rounded_weight
from amtl_export.graph.rewrite import initializer

COLUMNS, PANELS, SCALES, CODES = "columns", "panels", "scales", "codes_"

#: Where `trace` puts the exported module.
WRAPPER = "model."

M = TypeVar("M", bound=nn.Module)


def codes_of(dim: int) -> str:
    """The form of a weight that is codes over rows of `dim` numbers."""
    return f"{CODES}{dim}"


@dataclass(frozen=True)
class Part:
    """Some columns (places on the last axis) of an array.

    Attributes:
        whole: the array's name.
        places: which columns, in order.
        form: how they lie: `columns`, `panels`, `codes_D`, or `scales` of codes.
    """

    whole: str
    places: tuple[int, ...]
    form: str = COLUMNS

    @property
    def name(self) -> str:
        """Of the initializer."""
        return f"{self.form}/{_written(self.places)}/{self.whole}"

    @classmethod
    def named(cls, name: str) -> Part | None:
        """What an initializer's name says it is a part of; None if it is none."""
        form, _, rest = name.partition("/")
        ranges, _, whole = rest.partition("/")
        if not whole or not (form in (COLUMNS, PANELS, SCALES) or form.startswith(CODES)):
            return None
        ends = [span.split(":") for span in ranges.split(",")]
        return cls(whole, tuple(i for begin, end in ends for i in range(int(begin), int(end))), form)

    def of(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part, from the whole array."""
        cut = np.ascontiguousarray(whole[..., list(self.places)])
        if self.form == COLUMNS:
            return cut
        if self.form == PANELS:
            return panels(cut)
        return code_scales(cut) if self.form == SCALES else code_panels(cut, int(self.form.removeprefix(CODES)))


def part_of(graph: ir.Graph, value: ir.Value, places: Sequence[int], form: str = COLUMNS) -> ir.Value:
    """An initializer with some columns of another one, which may be a part itself."""
    assert value.name is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array, known = tensor.numpy(), Part.named(value.name)
    if form == COLUMNS and list(places) == list(range(array.shape[-1])):
        return value
    own = tuple(known.places[i] for i in places) if known else tuple(places)
    part = Part(known.whole if known else value.name, own, form)
    return initializer(graph, part.name, Part("", tuple(places), form).of(array))


def with_rounded_weights(module: M, initializers: Iterable[str]) -> M:
    """The module with the weights that a graph has as codes rounded to them; the module itself if it has none.

    Args:
        module: frozen, as it was exported; the copy shares its tables.
        initializers: names of the graph's.
    """
    exact = {f"{WRAPPER}{name}": parameter.detach().numpy() for name, parameter in module.named_parameters()}
    named = [part for part in map(Part.named, initializers) if part and part.form == SCALES and part.whole in exact]
    if not named:
        return module
    rounded = copy.deepcopy(module, {id(table): table for table in frozen_tables(module).values()})
    for part in named:
        places = list(part.places)
        weight = rounded.get_parameter(part.whole.removeprefix(WRAPPER))
        weight.data[:, places] = torch.from_numpy(rounded_weight(exact[part.whole][:, places]))
    return rounded


def _written(places: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as 0:3,6:8."""
    starts = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    ends = [*starts[1:], len(places)]
    return ",".join(f"{places[a]}:{places[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
