"""Linear layers in int8: what their numbers are, in numpy, and `ai.amtl::LinearInt8` and `CrossInt8` as functions.

Weights are quantized once, `scale(output) · w` with w in -64..64. What a layer multiplies is quantized at each call,
every example by itself, so that its answer does not depend on what else is in the batch:

    s = max(max|x| / levels, 2^-100)    q = round(x / s) + zero    y = (Σ (q - zero) · w) · s · scale + bias

with `zero` 0 and 255 levels where x cannot be negative, else 128 and 127. The sums are whole numbers, so they are the
same in any order. 64 is the most that ONNX Runtime's integer kernels add up without saturation on every processor:
255 · 64 · 2 < 2^15.
"""

# onnxscript reads the functions below as ONNX; its operators are not Python calls that types could be checked for.
# mypy: disable-error-code="arg-type,type-var,no-untyped-def"

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxscript
from onnxscript import opset20 as op

from amtl_export.graph.ragged import PANEL, QUAD
from amtl_export.native import DOMAIN

LINEAR_INT8, CROSS_INT8 = "LinearInt8", "CrossInt8"

#: Largest quantized weight.
MOST = 64

#: Least scale of an example, so that one of zeros alone can be divided by it.
LEAST_SCALE = 2.0**-100

_AMTL = onnxscript.values.Opset(DOMAIN, 1)


class Activation(NamedTuple):
    """How an example's numbers are quantized.

    Attributes:
        zero: what a quantized zero is.
        levels: what the largest magnitude becomes, over zero.
    """

    zero: int
    levels: int

    @property
    def unit(self) -> np.float32:
        """What the largest magnitude is multiplied by."""
        return np.float32(1.0 / self.levels)


SIGNED, UNSIGNED = Activation(128, 127), Activation(0, 255)


def quantized(weight: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """int8 `[outputs, inputs]`, whole numbers -64..64; an output without weights has zeros."""
    scales = weight_scales(weight)[:, None]
    numbers = np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0))
    whole: npt.NDArray[np.int8] = np.clip(numbers, -MOST, MOST).astype(np.int8)
    return whole


def weight_scales(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 `[outputs]`: the scale of each output's weights, so that its largest is 64."""
    scales: npt.NDArray[np.float32] = (np.abs(weight).max(axis=1, initial=0.0) / MOST).astype(np.float32)
    return scales


def zero_offsets(weight: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """int32 `[outputs]`: what quantized zeros of 128 add to each output's sum, taken off again."""
    offsets: npt.NDArray[np.int32] = -SIGNED.zero * quantized(weight).sum(axis=1, dtype=np.int32)
    return offsets


def weight_columns(weight: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """int8 `[inputs, outputs]`, as MatMulInteger takes them."""
    return np.ascontiguousarray(quantized(weight).T)


def weight_panels(weight: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """int8 `[ceil(outputs / 16), ceil(inputs / 4), 16, 4]`, as the native operators take them, filled up with zeros."""
    outputs, inputs = weight.shape
    panels, quads = -(-outputs // PANEL), -(-inputs // QUAD)
    wide = np.zeros((panels * PANEL, quads * QUAD), dtype=np.int8)
    wide[:outputs, :inputs] = quantized(weight)
    return np.ascontiguousarray(wide.reshape(panels, PANEL, quads, QUAD).transpose(0, 2, 1, 3))


@onnxscript.script(_AMTL, default_opset=op)
def LinearInt8(x, weights, scales, offsets, bias, zero: int, least: float):  # noqa: N802 - the operator's name
    """float32 `[..., outputs]`: `max(x · W + bias, least)`, x `[..., inputs]` quantized row by row.

    W[k, c] = w[k, c] · scales[c]; `weights` is w, int8 `[ceil(outputs / 16), ceil(inputs / 4), 16, 4]`: four rows of W
    together. `offsets` (int32 `[outputs]`) are added to the sums; `bias` is `[outputs]` or `[1, outputs]`. A row with
    a number that is not finite is answered with NaN.
    """
    rows = op.Flatten(x, axis=-1)
    last = op.Constant(value_ints=[-1])
    one = op.Constant(value_ints=[1])
    none = op.Constant(value_ints=[0])
    shift = op.Reshape(op.Constant(value_int=zero), one)
    turn = op.Mul(op.Cast(shift, to=ir.DataType.FLOAT.value), op.Constant(value_float=-0.0078125))  # -1 or 0
    magnitude = op.Max(rows, op.Mul(rows, turn))
    unit = op.Where(
        op.Equal(shift, none),
        op.Constant(value_floats=[0.003921568859368563]),
        op.Constant(value_floats=[0.007874015718698502]),
    )
    scale = op.Max(
        op.Mul(op.ReduceMax(magnitude, one, keepdims=0), unit), op.Constant(value_float=7.888609052210118e-31)
    )
    zeros = op.Expand(op.Cast(shift, to=ir.DataType.UINT8.value), op.Shape(scale))
    q = op.QuantizeLinear(rows, scale, zeros, axis=0)
    row = op.Reshape(bias, last)
    inputs = op.Shape(rows, start=1)
    outputs = op.Shape(row)
    wide = op.Mul(op.Shape(weights, start=0, end=1), op.Constant(value_ints=[16]))
    by_row = op.Reshape(op.Transpose(weights, perm=[1, 3, 0, 2]), op.Concat(last, wide, axis=0))
    columns = op.Slice(by_row, op.Constant(value_ints=[0, 0]), op.Concat(inputs, outputs, axis=0))
    sums = op.Add(op.MatMulInteger(q, columns), offsets)
    nothing = op.Mul(op.ReduceSum(rows, one, keepdims=0), op.Constant(value_float=0.0))  # NaN of what is not finite
    by_example = op.Mul(op.Cast(sums, to=ir.DataType.FLOAT.value), op.Unsqueeze(op.Add(scale, nothing), one))
    y = op.Max(op.Add(op.Mul(by_example, scales), row), op.Constant(value_float=least))
    return op.Reshape(y, op.Concat(op.Shape(x, end=-1), outputs, axis=0))


@onnxscript.script(_AMTL, default_opset=op)
def CrossInt8(x, weights, scales, offsets, bias, x0, zero: int, least: float):  # noqa: N802 - the operator's name
    """float32 `[..., inputs]`: `x0 * LinearInt8(x) + x`, a layer of DCN-V2."""
    return op.Add(op.Mul(x0, LinearInt8(x, weights, scales, offsets, bias, zero=zero, least=least)), x)


@functools.cache
def function(name: str) -> ir.Function:
    """The function body of an operator, ready for a model."""
    body: Any = {LINEAR_INT8: LinearInt8, CROSS_INT8: CrossInt8}[name]
    return ir.serde.deserialize_function(body.to_function_proto())
