"""`ai.amtl::RaggedGather`, `RaggedSum`, `RaggedLinear` and `RaggedLinearInt8`, each with a function body.

The bodies, of standard operators, travel in every model that has the nodes, so any ONNX Runtime runs the file; where
the native library is registered (`amtl_export.native`) its kernels compute the nodes.

A table of int4 has uint8 `values`, and its nodes the attribute `bits` = 4. They have bodies of their own
(`PairedGather`), under the same names: the ragged tables of a model are all of int4, or none is.
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

#: Columns of weights that lie together for `RaggedLinear`; of quantized ones, numbers of a column that do.
PANEL, QUAD = 16, 4

#: Attribute of nodes that read int4.
BITS = "bits"

#: What quantized weights are more than the numbers that they stand for.
ZERO_POINT = 128

#: `least` of a `RaggedLinear` that leaves its results as they are.
NO_LEAST = float(np.finfo(np.float32).min)

_AMTL = onnxscript.values.Opset(DOMAIN, 1)


@onnxscript.script(_AMTL, default_opset=op)
def RaggedGather(  # noqa: N802 - the operator's name
    values,
    block_offsets,
    row_offsets,
    ids,
    sizes,
    shifts,
    dim: int,
    block_bits: int,
    scale_base: float,
    scale_unit: float,
):
    """float32 `[*ids, dim]`: row `shifts[c] + id` of the table times its scale, zero past its end.

    Row r begins at `block_offsets[r >> block_bits] + row_offsets[r, 0]` of `values` and ends where row r + 1 begins;
    its scale is `scale_base + scale_unit · row_offsets[r, -1]`. An id outside `[0, sizes[c])`, c its position on the
    last axis, is taken as id 0; one size serves all positions.
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
    here = op.Gather(row_offsets, row)  # a whole row of row_offsets, so that nothing is cut out of the table
    there = op.Gather(row_offsets, after)
    begin = op.Add(
        op.Gather(block_offsets, op.Cast(block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(here, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    end = op.Add(
        op.Gather(block_offsets, op.Cast(next_block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(there, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    lane = op.Range(zero, op.Constant(value_int=dim), one)
    kept = op.Less(lane, op.Unsqueeze(op.Sub(end, begin), last))
    position = op.Where(kept, op.Add(op.Unsqueeze(begin, last), lane), zero)
    number = op.Cast(op.Gather(values, position), to=ir.DataType.FLOAT.value)
    quantized_scale = op.Cast(op.Gather(here, op.Constant(value_int=-1), axis=-1), to=ir.DataType.FLOAT.value)
    scale = op.Add(op.Constant(value_float=scale_base), op.Mul(op.Constant(value_float=scale_unit), quantized_scale))
    return op.Where(kept, op.Mul(number, op.Unsqueeze(scale, last)), op.Constant(value_float=0.0))


@onnxscript.script(_AMTL, default_opset=op)
def PairedGather(  # noqa: N802 - an operator's name while it is read
    values,
    block_offsets,
    row_offsets,
    ids,
    sizes,
    shifts,
    dim: int,
    block_bits: int,
    scale_base: float,
    scale_unit: float,
):
    """float32 `[*ids, dim]`: as `RaggedGather`, of a table of int4.

    `values` are uint8, bytes that offsets count. Number i of a row is in the low half of its byte i/2 where i is even,
    in the high half where it is odd, and 8 less than that half. The last half of a row of odd dims is a zero.
    """
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    two = op.Constant(value_int=2)
    last = op.Constant(value_ints=[-1])
    known = op.And(op.GreaterOrEqual(ids, zero), op.Less(ids, sizes))
    row = op.Add(op.Where(known, ids, zero), shifts)
    after = op.Add(row, one)
    shift = op.Cast(op.Constant(value_int=block_bits), to=ir.DataType.UINT64.value)
    block = op.BitShift(op.Cast(row, to=ir.DataType.UINT64.value), shift, direction="RIGHT")
    next_block = op.BitShift(op.Cast(after, to=ir.DataType.UINT64.value), shift, direction="RIGHT")
    here = op.Gather(row_offsets, row)
    there = op.Gather(row_offsets, after)
    begin = op.Add(
        op.Gather(block_offsets, op.Cast(block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(here, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    end = op.Add(
        op.Gather(block_offsets, op.Cast(next_block, to=ir.DataType.INT64.value)),
        op.Cast(op.Gather(there, zero, axis=-1), to=ir.DataType.INT64.value),
    )
    lane = op.Range(zero, op.Constant(value_int=dim), one)
    byte = op.Div(lane, two)
    kept = op.Less(byte, op.Unsqueeze(op.Sub(end, begin), last))
    position = op.Where(kept, op.Add(op.Unsqueeze(begin, last), byte), zero)
    high = op.Equal(op.Mod(lane, two), one)
    mask = op.Where(high, op.Constant(value_int=240), op.Constant(value_int=15))
    unit = op.Where(high, op.Constant(value_float=0.0625), op.Constant(value_float=1.0))
    half = op.BitwiseAnd(op.Gather(values, position), op.Cast(mask, to=ir.DataType.UINT8.value))
    number = op.Sub(op.Mul(op.Cast(half, to=ir.DataType.FLOAT.value), unit), op.Constant(value_float=8.0))
    quantized_scale = op.Cast(op.Gather(here, op.Constant(value_int=-1), axis=-1), to=ir.DataType.FLOAT.value)
    scale = op.Add(op.Constant(value_float=scale_base), op.Mul(op.Constant(value_float=scale_unit), quantized_scale))
    return op.Where(kept, op.Mul(number, op.Unsqueeze(scale, last)), op.Constant(value_float=0.0))


@onnxscript.script(_AMTL, default_opset=op)
def RaggedSum(  # noqa: N802 - the operator's name
    values,
    block_offsets,
    row_offsets,
    ids,
    sizes,
    shifts,
    dim: int,
    block_bits: int,
    scale_base: float,
    scale_unit: float,
):
    """float32 `[B, dim]`: the sum of the rows of ids `[B, L]` of one field."""
    rows = RaggedGather(
        values, block_offsets, row_offsets, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_unit=scale_unit,
    )  # fmt: skip
    return op.ReduceSum(rows, op.Constant(value_ints=[1]), keepdims=0)


@onnxscript.script(_AMTL, default_opset=op)
def RaggedLinear(  # noqa: N802 - the operator's name
    values, block_offsets, row_offsets, ids, sizes, shifts, weights, bias,
    dim: int, block_bits: int, scale_base: float, scale_unit: float, least: float,
):  # fmt: skip
    """float32 `[B, outputs]`: `max(x · W + bias, least)`, x the rows of ids `[B, F]` side by side.

    `weights` is W `[F · dim, outputs]` in panels of 16 columns: `[ceil(outputs / 16), F · dim, 16]`; `bias` is
    `[outputs]` or `[1, outputs]`.
    """
    rows = RaggedGather(
        values, block_offsets, row_offsets, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_unit=scale_unit,
    )  # fmt: skip
    flat = op.Flatten(op.Transpose(weights, perm=[1, 0, 2]), axis=1)
    row = op.Reshape(bias, op.Constant(value_ints=[-1]))
    columns = op.Slice(flat, op.Constant(value_ints=[0]), op.Shape(row), op.Constant(value_ints=[1]))
    x, none = op.Flatten(rows, axis=1), op.Constant(value_ints=[0])
    # Never one row alone, which ONNX Runtime may add up in another order than a row among others.
    more = op.Concat(x, op.Slice(x, none, op.Constant(value_ints=[1]), none), axis=0)
    y = op.Slice(op.Gemm(more, columns, row), none, op.Constant(value_ints=[-1]), none)
    return op.Max(y, op.Constant(value_float=least))


@onnxscript.script(_AMTL, default_opset=op)
def RaggedLinearInt8(  # noqa: N802 - the operator's name
    values, block_offsets, row_offsets, ids, sizes, shifts, weights, bias, scales,
    dim: int, block_bits: int, scale_base: float, scale_unit: float, least: float,
):  # fmt: skip
    """float32 `[B, outputs]`: as `RaggedLinear`, of an int8 or int4 table, with quantized weights.

    W[k, c] = (quantized[k, c] - 128) · scales[c]; `scales` is float32 `[outputs]`. `weights` are quantized, uint8
    `[ceil(outputs / 16), F · ceil(dim / 4), 16, 4]`: four rows of W together, those of each field filled up with 128
    to a multiple of four.
    """
    rows = RaggedGather(
        values, block_offsets, row_offsets, ids, sizes, shifts,
        dim=dim, block_bits=block_bits, scale_base=scale_base, scale_unit=scale_unit,
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
    x, none = op.Flatten(rows, axis=1), op.Constant(value_ints=[0])
    more = op.Concat(x, op.Slice(x, none, one, none), axis=0)  # as in RaggedLinear
    product = op.Slice(op.MatMul(more, columns), none, op.Constant(value_ints=[-1]), none)
    return op.Max(op.Add(op.Mul(product, scales), row), op.Constant(value_float=least))


@functools.cache
def function(name: str, *, paired: bool = False) -> ir.Function:
    """The function body of an operator, ready for a model; with `paired` the one of tables of int4."""
    body: Any = {GATHER: RaggedGather, SUM: RaggedSum, LINEAR: RaggedLinear, LINEAR_INT8: RaggedLinearInt8}[name]
    if not paired:
        return ir.serde.deserialize_function(body.to_function_proto())
    made = ir.serde.deserialize_function((PairedGather if name == GATHER else body).to_function_proto())
    made.name = name
    made.attributes.setdefault(BITS, ir.Attr(BITS, ir.AttributeType.INT, None))
    for node in made:
        if node.op_type == GATHER:
            node.attributes.add(ir.RefAttr(BITS, BITS, ir.AttributeType.INT))
    return made


def panels(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A weight `[outputs, inputs]` in panels: `[ceil(outputs / 16), inputs, 16]`, the last one filled up with zeros."""
    outputs, inputs = weight.shape
    wide = np.zeros((-(-outputs // PANEL) * PANEL, inputs), dtype=weight.dtype)
    wide[:outputs] = weight
    return np.ascontiguousarray(wide.reshape(-1, PANEL, inputs).transpose(0, 2, 1))


def quantized_panels(weight: npt.NDArray[Any], dim: int) -> npt.NDArray[np.uint8]:
    """A weight `[outputs, fields · dim]` quantized, uint8 `[ceil(outputs / 16), fields · ceil(dim / 4), 16, 4]`."""
    outputs, inputs = weight.shape
    fields, padded = inputs // dim, -(-dim // QUAD) * QUAD
    quantized = np.full((-(-outputs // PANEL) * PANEL, fields, padded), ZERO_POINT, dtype=np.uint8)
    quantized[:outputs, :, :dim] = (_quantized(weight) + ZERO_POINT).reshape(outputs, fields, dim)
    return np.ascontiguousarray(quantized.reshape(-1, PANEL, fields * padded // QUAD, QUAD).transpose(0, 2, 1, 3))


def scales_of(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 `[outputs]`: the scale of each output's quantized weights, so that its largest weight is 127."""
    scales: npt.NDArray[np.float32] = (np.abs(weight).max(axis=1, initial=0.0) / 127).astype(np.float32)
    return scales


def fake_quantized_weight(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The weight that its quantized values stand for (fake-quantized), float32 `[outputs, inputs]`."""
    dequantized: npt.NDArray[np.float32] = _quantized(weight) * scales_of(weight)[:, None]
    return dequantized


def _quantized(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Whole numbers -127..127, float32 `[outputs, inputs]`; an output without weights has zeros."""
    scales = scales_of(weight)[:, None]
    quantized: npt.NDArray[np.float32] = np.rint(np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0))
    return quantized
