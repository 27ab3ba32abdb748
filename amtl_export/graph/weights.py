"""Parts of a module's weights as initializers whose names say what they are parts of.

`columns/0:64,128:192/model.backbone.layers.1.weight` holds those columns of that weight, in that order;
`panels/…` the same in the panels of a RaggedLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from amtl_export.graph.ragged import panels
from amtl_export.graph.rewrite import initializer

_COLUMNS, _PANELS = "columns", "panels"


@dataclass(frozen=True)
class Part:
    """Some columns (places on the last axis) of an array.

    Attributes:
        whole: the array's name.
        places: which columns, in order.
        in_panels: whether they lie in panels.
    """

    whole: str
    places: tuple[int, ...]
    in_panels: bool = False

    @property
    def name(self) -> str:
        """Of the initializer."""
        return f"{_PANELS if self.in_panels else _COLUMNS}/{_written(self.places)}/{self.whole}"

    @classmethod
    def named(cls, name: str) -> Part | None:
        """What an initializer's name says it is a part of; None if it is none."""
        kind, _, rest = name.partition("/")
        ranges, _, whole = rest.partition("/")
        if kind not in (_COLUMNS, _PANELS) or not whole:
            return None
        ends = [span.split(":") for span in ranges.split(",")]
        return cls(whole, tuple(i for begin, end in ends for i in range(int(begin), int(end))), kind == _PANELS)

    def of(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part, from the whole array."""
        cut = np.ascontiguousarray(whole[..., list(self.places)])
        return panels(cut) if self.in_panels else cut


def part_of(graph: ir.Graph, value: ir.Value, places: Sequence[int], *, in_panels: bool = False) -> ir.Value:
    """An initializer with some columns of another one, which may be a part itself."""
    assert value.name is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    array, known = tensor.numpy(), Part.named(value.name)
    if not in_panels and list(places) == list(range(array.shape[-1])):
        return value
    own = tuple(known.places[i] for i in places) if known else tuple(places)
    part = Part(known.whole if known else value.name, own, in_panels)
    return initializer(graph, part.name, Part("", tuple(places), in_panels).of(array))


def _written(places: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as 0:3,6:8."""
    starts = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    ends = [*starts[1:], len(places)]
    return ",".join(f"{places[a]}:{places[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
