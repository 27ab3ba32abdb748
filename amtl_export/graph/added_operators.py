"""Operators that PyTorch's exporter has no ONNX for, in standard operators."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20

op: Any = opset20  # to mypy its constants are of no type


def added_translations() -> dict[Any, Any]:
    """Operator of PyTorch → what stands for it."""
    aten = torch.ops.aten
    return {
        aten._cdist_forward.default: _cdist,
        aten.cumprod.default: _cumprod,
        aten.hypot.default: lambda self, other: op.Sqrt(op.Add(op.Mul(self, self), op.Mul(other, other))),
        aten.isin.Tensor_Tensor: _isin,
        aten.searchsorted.Tensor: _searchsorted,
    }


def _isin(elements: Any, test_elements: Any, *, invert: bool = False, **_: Any) -> Any:
    """Whether each number is one of `[M]` others: each is compared with each."""
    kinds = {elements.dtype, test_elements.dtype}
    wide = ir.DataType.DOUBLE if any(kind.is_floating_point() for kind in kinds) else ir.DataType.INT64
    number = op.Unsqueeze(op.Cast(elements, to=wide.value), _axes(-1))
    others = op.Reshape(op.Cast(test_elements, to=wide.value), _axes(-1))
    equal = op.Cast(op.Equal(number, others), to=ir.DataType.INT32.value)
    found = op.Greater(op.ReduceSum(equal, _axes(-1), keepdims=0), op.Constant(value=ir.tensor(0, ir.DataType.INT32)))
    return op.Not(found) if invert else found


def _searchsorted(
    sorted_sequence: Any,
    self: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """How many of `[…, M]` are below each number of `[…, N]`, or with `right` at most that: all of them, of a NaN."""
    rising = sorted_sequence if sorter is None else op.GatherElements(sorted_sequence, sorter, axis=-1)
    if len(sorted_sequence.shape) > 1:
        rising = op.Unsqueeze(rising, _axes(-2))
    above = op.Greater if right or side == "right" else op.GreaterOrEqual
    below = op.Not(above(rising, op.Unsqueeze(self, _axes(-1))))
    kind = ir.DataType.INT32 if out_int32 else ir.DataType.INT64
    return op.ReduceSum(op.Cast(below, to=kind.value), _axes(-1), keepdims=0)


def _cdist(x1: Any, x2: Any, p: float, *_: Any) -> Any:
    """Distances `[…, P, R]` of `[…, P, M]` and `[…, R, M]`: (Σ |x1 - x2|^p)^(1/p)."""
    apart = op.Abs(op.Sub(op.Unsqueeze(x1, _axes(-2)), op.Unsqueeze(x2, _axes(-3))))
    if p == math.inf:
        return op.ReduceMax(apart, _axes(-1), keepdims=0)
    if p in (1, 2):
        return (op.ReduceL1 if p == 1 else op.ReduceL2)(apart, _axes(-1), keepdims=0)
    if p == 0:
        return op.ReduceSum(op.Sign(apart), _axes(-1), keepdims=0)
    powers = op.Pow(apart, op.CastLike(op.Constant(value_float=p), apart))
    return op.Pow(op.ReduceSum(powers, _axes(-1), keepdims=0), op.CastLike(op.Constant(value_float=1 / p), apart))


def _cumprod(self: Any, dim: int, *, dtype: int = -1) -> Any:
    """Π of the first i numbers of an axis, for each i: all n, those behind i taken for 1."""
    rank = len(self.shape)
    if rank == 0:
        return op.Identity(self)
    axis = dim % rank
    whole = self.dtype.is_integer() or self.dtype == ir.DataType.BOOL
    kind = ir.DataType(dtype) if dtype >= 0 else ir.DataType.INT64 if whole else self.dtype
    numbers = op.Unsqueeze(op.Cast(self, to=kind.value), _axes(axis))  # [… 1, n …]
    count = op.Squeeze(op.Shape(self, start=axis, end=axis + 1))
    zero, one = (op.Constant(value=ir.tensor(number, ir.DataType.INT64)) for number in (0, 1))
    places = op.Range(zero, count, one)
    seen = op.LessOrEqual(op.Unsqueeze(places, _axes(0)), op.Unsqueeze(places, _axes(1)))  # [n, n]
    if axis < rank - 1:
        seen = op.Unsqueeze(seen, _axes(*range(2, rank - axis + 1)))
    return op.ReduceProd(op.Where(seen, numbers, op.CastLike(one, numbers)), _axes(axis + 1), keepdims=0)


def _axes(*axes: int) -> Any:
    return op.Constant(value_ints=list(axes))
