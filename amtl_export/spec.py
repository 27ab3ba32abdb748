"""What a tensor of a graph is, from tracing to the server: one description, of numpy and the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Name of a tensor → array.
Feed = dict[str, npt.NDArray[Any]]

#: numpy's name of a type → that of the Open Inference Protocol v2.
DATATYPES = {
    "int64": "INT64", "int32": "INT32", "int16": "INT16", "int8": "INT8", "uint8": "UINT8", "bool": "BOOL",
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "object": "BYTES",
}  # fmt: skip

#: The dynamic dimension that all inputs with one row for each example share.
BATCH = "batch"


@dataclass(frozen=True)
class Column:
    """What stands in one column of an input.

    Attributes:
        field: its name.
        size: V of an id column; 0 for a number.
        padding: the padding id of a multi-valued field.
    """

    field: str
    size: int = 0
    padding: int | None = None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: numpy's name of it: `int64`, `float32`, …; `object` for texts.
        shape: a text is a dynamic dimension, the same size wherever it has the same name.
        columns: of axis 1, where they are known; the only one of a multi-valued field serves all its values.
        source: the model's input that it is, or is a part of; the same as `name` where nothing was split.
        positions: its columns' positions in `source`; empty where it has all of them.
        shared: whether it is given once, `[1, …]`, where the model takes it for every example.
        path: how the model's caller reaches it: forward's parameter, then keys and positions; empty for a run's model.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    columns: tuple[Column, ...] = ()
    source: str = ""
    positions: tuple[int, ...] = ()
    shared: bool = False
    path: tuple[str | int, ...] = ()

    @property
    def request(self) -> bool:
        """Whether it has one row for a whole request, `[1, …]`, and not one for each candidate."""
        return self.shape[:1] == (1,)

    @property
    def batch_axis(self) -> int | None:
        """The axis with one place for each example; None if it has none."""
        return self.shape.index(BATCH) if BATCH in self.shape else None

    @property
    def batched(self) -> bool:
        """Whether its first dimension is the batch, as servers want it."""
        return self.batch_axis == 0

    @property
    def packed(self) -> bool:
        """Whether every column of axis 1 is a field of its own."""
        return len(self.shape) == 2 and self.shape[1] == len(self.columns)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(column.field for column in self.columns)

    @property
    def integer(self) -> bool:
        """Whether it holds whole numbers, ids perhaps."""
        return self.dtype.startswith(("int", "uint"))


def mismatch(feed: Mapping[str, npt.NDArray[Any]], specs: Sequence[TensorSpec]) -> str:
    """Why arrays are not what the inputs take, in words; empty where they are."""
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in feed:
            return f"input {spec.name} is not given"
        array = np.asarray(feed[spec.name])
        fits = array.ndim == len(spec.shape) and all(
            size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
            for size, wanted in zip(array.shape, spec.shape, strict=True)
        )
        if not fits:
            shown = ", ".join(str(sizes.get(s, s)) if isinstance(s, str) else str(s) for s in spec.shape)
            return f"input {spec.name} has the shape {list(array.shape)}, the graph takes [{shown}]"
    return ""


def rows_of(feed: Feed, specs: Sequence[TensorSpec], rows: slice | npt.NDArray[np.int64]) -> Feed:
    """Some examples of a batch: of every input that has them side by side; other inputs whole."""
    axes = {spec.name: spec.batch_axis for spec in specs}
    return {
        name: values if (axis := axes[name]) is None else _along(values, axis, rows) for name, values in feed.items()
    }


def _along(values: npt.NDArray[Any], axis: int, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    where: list[Any] = [slice(None)] * values.ndim
    where[axis] = rows
    return np.ascontiguousarray(values[tuple(where)])


def batch_size(feed: Feed, specs: Sequence[TensorSpec]) -> int | None:
    """Examples of a batch; None where no input has them side by side."""
    axes = ((spec.name, spec.batch_axis) for spec in specs)
    return next((feed[name].shape[axis] for name, axis in axes if axis is not None), None)


def resized(feed: Feed, specs: Sequence[TensorSpec], dimension: str, size: int) -> Feed:
    """Inputs with another size of a dimension: what is there is repeated, or cut off."""
    wider = dict(feed)
    for spec in specs:
        for axis, name in enumerate(spec.shape):
            if name == dimension:
                values = wider[spec.name]
                wider[spec.name] = _along(values, axis, np.arange(size) % max(1, values.shape[axis]))
    return wider
