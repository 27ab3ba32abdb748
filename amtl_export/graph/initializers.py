"""Constants of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def initializer(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """The initializer of this name, made of `array` if it is not there yet."""
    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.tensor(np.empty(0, array.dtype)).dtype
        graph.initializers[name] = value
    return graph.initializers[name]
