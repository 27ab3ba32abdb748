"""`ai.amtl::RaggedGather`: one node for a lookup in the ragged layout, and its body of standard operators.

The function travels in every model that has the node, so any ONNX Runtime runs the file; where the native
library is registered (`amtl_export.native`) its kernel takes the node's place.
"""

# onnxscript reads the function below as ONNX; its operators are not Python calls that types could be checked for.
# mypy: disable-error-code="arg-type,type-var"

from __future__ import annotations

import functools

import onnx_ir as ir
import onnxscript
from onnxscript import opset20 as op

from amtl_export.graph.trace import DOMAIN

OPERATOR = "RaggedGather"
_AMTL = onnxscript.values.Opset(DOMAIN, 1)


@onnxscript.script(_AMTL, default_opset=op)
def RaggedGather(values, offsets, ids, sizes, shifts, dim: int):  # type: ignore[no-untyped-def]  # noqa: N802 - the operator's name
    """float32 `[*ids, dim]`: row `shifts[c] + id` of the table, zero past its end.

    An id outside `[0, sizes[c])`, c its place on the last axis, is taken as id 0; one size serves all places.
    """
    zero = op.Constant(value_int=0)
    known = op.And(op.GreaterOrEqual(ids, zero), op.Less(ids, sizes))
    row = op.Add(op.Where(known, ids, zero), shifts)
    one = op.Constant(value_int=1)
    begin = op.Cast(op.Gather(offsets, row), to=ir.DataType.INT64.value)
    end = op.Cast(op.Gather(offsets, op.Add(row, one)), to=ir.DataType.INT64.value)
    width = op.Constant(value_int=dim)
    lane = op.Range(zero, width, one)
    last = op.Constant(value_ints=[-1])
    kept = op.Less(lane, op.Unsqueeze(op.Sub(end, begin), last))
    place = op.Where(kept, op.Add(op.Unsqueeze(begin, last), lane), zero)
    nothing = op.CastLike(op.Constant(value_float=0.0), values)
    return op.Where(kept, op.Gather(values, place), nothing)


@functools.cache
def ragged_gather() -> ir.Function:
    """The function, ready for a model."""
    return ir.serde.deserialize_function(RaggedGather.to_function_proto())
