"""`ai.amtl::RaggedGather`, `RaggedSum`, `RaggedLinear` and `RaggedLinearInt8`, each with a body of standard operators.

The functions travel in every model that has the nodes, so any ONNX Runtime runs the file; where the native
library is registered (`amtl_export.native`) its kernels take the nodes' place.
"""

# onnxscript reads the functions below as ONNX; its operators are not Python calls that types could be checked for.
# mypy: disable-error-code="arg-type,type-var,no-untyped-def"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxscript
from onnxscript import opset20 as op

from amtl_export.native import DOMAIN

GATHER, SUM, LINEAR, LINEAR_INT8 = "RaggedGather", "RaggedSum", "RaggedLinear", "RaggedLinearInt8"

#: Columns of weights that lie together for `RaggedLinear`; of codes, numbers of a column that do.
PANEL, QUAD = 16, 4

#: What a weight's codes are more than the numbers that they stand for.
ZERO_CODE = 128

#: `least` of a `RaggedLinear` that leaves its results as they are.
NO_LEAST = float(np.finfo(np.float32).min)

_AMTL = onnxscript.values.Opset(DOMAIN, 1)


@onnxscript.script(_AMTL, default_opset=op)
def RaggedGather(  # noqa: N802 - the operator's name
    values, starts, places, ids, sizes, shifts, dim: int, block_bits: int, scale_base: float, scale_step: float
):
    """float32 `[*ids, dim]`: row `shifts[c] + id` of the table times its scale, zero past its end.

    Row r begins at `starts[r >> block_bits] + places[r, 0]` of `values` and ends where row r + 1 begins; its scale is
    `scale_base + scale_step · places[r, -1]`. An id outside `[0, sizes[c])`, c its place on the last axis, is taken as
    id 0; one size serves all places.
    """
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    last = op.Constant(value_ints=[-1])
    known = op.And(op.GreaterOrEqual(ids, zero), op.Less(ids, sizes))
    row = op.Add(op.Where(known, ids, zero), shifts)
    after = op.Add(row, one)
    bits = op.Cast(op.Constant(value_int=block_bits), to=ir.DataType.UINT64.value)
    block = op.BitShift(op.Cast(row, to=ir.DataType.UINT64.value), bits, direction="RIGHT")
    next_block = op.BitShift(op.Cast(after, to=ir.DataType.UINT64.value), bits, direction="RIGHT")
    here = op.Gather(places, row)  # a whole row of places, so that nothing is cut out of the table
    there = op.Gather(places, after)
    begin = op.Add(
        op.Gather(starts, op.Cast(block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(here, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    end = op.Add(
        op.Gather(starts, op.Cast(next_block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(there, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    lane = op.Range(zero, op.Constant(value_int=dim), one)
    kept = op.Less(lane, op.Unsqueeze(op.Sub(end, begin), last))
    place = op.Where(kept, op.Add(op.Unsqueeze(begin, last), lane), zero)
    number = op.Cast(op.Gather(values, place), to=ir.DataType.FLOAT.value)
    code = op.Cast(op.Gather(here, op.Constant(value_int=-1), axis=-1), to=ir.DataType.FLOAT.value)
    scale = op.Add(op.Constant(value_float=scale_base), op.Mul(op.Constant(value_float=scale_step), code))
    return op.Where(kept, op.Mul(number, op.Unsqueeze(scale, last)), op.Constant(value_float=0.0))


@onnxscript.script(_AMTL, default_opset=op)
def RaggedSum(  # noqa: N802 - the operator's name
    values, starts, places, ids, sizes, shifts, dim: int, block_bits: int, scale_base: float, scale_step: float
):
    """float32 `[B, dim]`: the sum of the rows of ids `[B, L]` of one field."""
    rows = RaggedGather(
        values, starts, places, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_step=scale_step,
    )  # fmt: skip
    return op.ReduceSum(rows, op.Constant(value_ints=[1]), keepdims=0)


@onnxscript.script(_AMTL, default_opset=op)
def RaggedLinear(  # noqa: N802 - the operator's name
    values, starts, places, ids, sizes, shifts, weights, bias,
    dim: int, block_bits: int, scale_base: float, scale_step: float, least: float,
):  # fmt: skip
    """float32 `[B, outputs]`: `max(x · W + bias, least)`, x the rows of ids `[B, F]` side by side.

    `weights` is W `[F · dim, outputs]` in panels of 16 columns: `[ceil(outputs / 16), F · dim, 16]`; `bias` is
    `[outputs]` or `[1, outputs]`.
    """
    rows = RaggedGather(
        values, starts, places, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_step=scale_step,
    )  # fmt: skip
    flat = op.Flatten(op.Transpose(weights, perm=[1, 0, 2]), axis=1)
    row = op.Reshape(bias, op.Constant(value_ints=[-1]))
    columns = op.Slice(flat, op.Constant(value_ints=[0]), op.Shape(row), op.Constant(value_ints=[1]))
    return op.Max(op.Gemm(op.Flatten(rows, axis=1), columns, row), op.Constant(value_float=least))


@onnxscript.script(_AMTL, default_opset=op)
def RaggedLinearInt8(  # noqa: N802 - the operator's name
    values, starts, places, ids, sizes, shifts, weights, bias, scales,
    dim: int, block_bits: int, scale_base: float, scale_step: float, least: float,
):  # fmt: skip
    """float32 `[B, outputs]`: as `RaggedLinear`, of an int8 table, with W[k, c] = (code[k, c] - 128) · scales[c].

    `weights` are codes, uint8 `[ceil(outputs / 16), F · ceil(dim / 4), 16, 4]`: four rows of W together, those of each
    field filled up with 128 to a multiple of four; `scales` is float32 `[outputs]`.
    """
    rows = RaggedGather(
        values, starts, places, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_step=scale_step,
    )  # fmt: skip
    one = op.Constant(value_ints=[1])
    numbers = op.Sub(op.Cast(weights, to=ir.DataType.FLOAT.value), op.Constant(value_float=128.0))
    by_row = op.Transpose(numbers, perm=[1, 3, 0, 2])
    fields, wide = (
        op.Shape(ids, start=1, end=2),
        op.Mul(op.Shape(weights, start=0, end=1), op.Constant(value_ints=[16])),
    )
    by_field = op.Reshape(by_row, op.Concat(fields, op.Constant(value_ints=[-1]), wide, axis=0))
    row = op.Reshape(bias, op.Constant(value_ints=[-1]))
    outputs = op.Shape(row)
    ends = op.Concat(op.Reshape(op.Constant(value_int=dim), one), outputs, axis=0)
    kept = op.Slice(by_field, op.Constant(value_ints=[0, 0]), ends, op.Constant(value_ints=[1, 2]))
    columns = op.Reshape(kept, op.Concat(op.Constant(value_ints=[-1]), outputs, axis=0))
    product = op.MatMul(op.Flatten(rows, axis=1), columns)
    return op.Max(op.Add(op.Mul(product, scales), row), op.Constant(value_float=least))


@functools.cache
def function(name: str) -> ir.Function:
    """The body of an operator, ready for a model."""
    made: Any = {GATHER: RaggedGather, SUM: RaggedSum, LINEAR: RaggedLinear, LINEAR_INT8: RaggedLinearInt8}[name]
    return ir.serde.deserialize_function(made.to_function_proto())


def panels(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A weight `[outputs, inputs]` in panels: `[ceil(outputs / 16), inputs, 16]`, the last one filled up with zeros."""
    outputs, inputs = weight.shape
    wide = np.zeros((-(-outputs // PANEL) * PANEL, inputs), dtype=weight.dtype)
    wide[:outputs] = weight
    return np.ascontiguousarray(wide.reshape(-1, PANEL, inputs).transpose(0, 2, 1))


def code_panels(weight: npt.NDArray[Any], dim: int) -> npt.NDArray[np.uint8]:
    """A weight `[outputs, fields · dim]` as codes, uint8 `[ceil(outputs / 16), fields · ceil(dim / 4), 16, 4]`."""
    outputs, inputs = weight.shape
    fields, padded = inputs // dim, -(-dim // QUAD) * QUAD
    codes = np.full((-(-outputs // PANEL) * PANEL, fields, padded), ZERO_CODE, dtype=np.uint8)
    codes[:outputs, :, :dim] = (_codes(weight) + ZERO_CODE).reshape(outputs, fields, dim)
    return np.ascontiguousarray(codes.reshape(-1, PANEL, fields * padded // QUAD, QUAD).transpose(0, 2, 1, 3))


def code_scales(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 `[outputs]`: what a code of each output's weights is worth, so that its largest weight is 127."""
    scales: npt.NDArray[np.float32] = (np.abs(weight).max(axis=1, initial=0.0) / 127).astype(np.float32)
    return scales


def rounded_weight(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The weight that codes stand for, float32 `[outputs, inputs]`."""
    rounded: npt.NDArray[np.float32] = _codes(weight) * code_scales(weight)[:, None]
    return rounded


def _codes(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Whole numbers -127..127, float32 `[outputs, inputs]`; an output without weights has zeros."""
    scales = code_scales(weight)[:, None]
    codes: npt.NDArray[np.float32] = np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0))
    return codes
