"""PyTorch's ONNX exporter as it is used here: quiet, exact, and its table of operators made once."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from onnxscript import rewriter
from onnxscript.function_libs.torch_lib import ops, registration  # noqa: F401 - ops registers what the exporter knows
from onnxscript.function_libs.torch_lib.ops import core, nn
from onnxscript.rewriter.rules.common import _no_op as no_op
from torch.export import _trace
from torch.onnx._internal.exporter._registration import ONNXRegistry

#: They talk about absent torchvision, shared axis names, the exporter's own operators, and what they do not optimize.
_TALKING = ("torch.onnx._internal.exporter._registration", "onnx_ir", "onnxscript")

#: They tell of each try that fails; what they tell is in the error as well.
_TELLING = ("torch._guards", "torch._dynamo", "torch.export", "torch.fx.experimental.symbolic_shapes")

#: What tables were made of → the table.
_TABLES: dict[Hashable, ONNXRegistry] = {}


@contextmanager
def exporter() -> Iterator[None]:
    """`torch.onnx.export` inside the block is as this module says; one block at a time."""
    with _quiet(), _exact_rules(), _one_table():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's talk about its own doings; errors still come through, as exceptions or from its loggers.

    A logger that `TORCH_LOGS` asks more of is left alone.
    """
    quiet = {logging.getLogger(name): logging.ERROR for name in _TALKING}
    telling = [logging.getLogger(name) for name in _TELLING]
    quiet |= {logger: logging.CRITICAL for logger in telling if not logger.isEnabledFor(logging.INFO)}
    levels = {logger: logger.level for logger in quiet}
    for logger, level in quiet.items():
        logger.setLevel(level)
    vars(_trace)["print"] = lambda *_, **__: None  # it prints the graph that it gave up
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        vars(_trace).pop("print", None)
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _exact_rules() -> Iterator[None]:
    """Keep the exporter from dropping `x + 1e-9` and `x * 1.000001`.

    Its rules take a number within 1e-8 of 0 for 0, and one within 1e-5 of 1 for 1: a norm of zeros would be divided by
    zero.
    """
    rules = rewriter._DEFAULT_REWRITE_RULES
    inexact = {id(rule) for rule in no_op.rules.rules}
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if id(rule) not in inexact)
    try:
        assert len(rewriter._DEFAULT_REWRITE_RULES) == len(rules) - len(inexact)
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def exact_translations() -> dict[Any, Any]:
    """Operator of PyTorch → what stands for it in place of the exporter's own translation, which is not exact.

    That divides whole numbers as float32: ids above 2^24 would come out as others. It takes the logarithm of a sigmoid
    or of a sum of exponentials, which is infinite for numbers that PyTorch answers. And its attention to nothing, of an
    empty history, is the mean of all.
    """
    aten = torch.ops.aten
    return {
        aten.div.Tensor_mode: _divided,
        aten.div.Scalar_mode: _divided,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.logaddexp.default: _logaddexp,
        aten.scaled_dot_product_attention.default: _attention,
    }


def _log_sigmoid(self: Any) -> Any:
    return op.Neg(_softplus(op.Neg(self), self.dtype))


def _logaddexp(self: Any, other: Any) -> Any:
    apart = op.Where(op.Equal(self, other), _like(self, 0.0), op.Abs(op.Sub(self, other)))  # of infinities too
    return op.Add(op.Max(self, other), _softplus(op.Neg(apart), self.dtype))


def _softplus(x: Any, kind: ir.DataType) -> Any:
    """log(1 + e^x); ONNX Runtime has it for float32 alone."""
    if kind == ir.DataType.FLOAT:
        return op.Softplus(x)
    exponential = op.Exp(op.Neg(op.Abs(x)))
    return op.Add(op.Max(x, _like(x, 0.0)), op.Log(op.Add(_like(x, 1.0), exponential)))


def _like(x: Any, number: float) -> Any:
    constant: Any = op.Constant(value_float=number)
    return op.CastLike(constant, x)


def _divided(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """`torch.div` with a rounding mode."""
    numbers = (self.dtype, getattr(other, "dtype", None) or ir.DataType.from_numpy(np.asarray(other).dtype))
    if rounding_mode is None or not all(kind.is_integer() for kind in numbers):
        return core.aten_div_mode(self, other, rounding_mode=rounding_mode)
    return core.aten_floor_divide(self, other) if rounding_mode == "floor" else op.Div(self, other)


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *settings: Any, **named: Any) -> Any:
    """`F.scaled_dot_product_attention` `[…, L, E]`: 0 where a bool masks all; the exporter's own takes 4 axes alone."""
    lifted: Any = list(range(4 - len(query.shape)))
    masked = attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL
    if masked:
        attn_mask = op.Where(attn_mask, _like(query, 0.0), _like(query, -math.inf))
    if lifted:
        query, key, value = (_lifted(each, lifted) for each in (query, key, value))
    answer: Any = nn.aten_scaled_dot_product_attention(query, key, value, attn_mask, *settings, **named)
    if masked:
        most: Any = op.ReduceMax(attn_mask, _last_axis(), keepdims=1)
        answer = op.Where(op.IsInf(most), _like(answer, 0.0), answer)
    return op.Squeeze(answer, lifted) if lifted else answer


def _last_axis() -> Any:
    return op.Constant(value_ints=[-1])


def _lifted(tensor: Any, axes: Any) -> Any:
    """The same with axes of 1 in front, its shape stated."""
    wide: Any = op.Unsqueeze(tensor, axes)
    wide.shape, wide.dtype = ir.Shape([1] * len(axes) + list(tensor.shape)), tensor.dtype
    return wide


@contextmanager
def _one_table() -> Iterator[None]:
    """Keep the table of operators from one export to the next, each export with a copy of its own.

    The exporter reads the sources of all its operators anew for each model: a third of the time of a small one.
    """
    own = vars(ONNXRegistry)["from_torchlib"]

    def known(cls: type[ONNXRegistry], *args: Any, **kwargs: Any) -> ONNXRegistry:
        key = (args, tuple(sorted(kwargs.items())), _registered(), _operators())
        if key not in _TABLES:
            _TABLES[key] = own.__func__(cls, *args, **kwargs)
        table = copy.copy(_TABLES[key])
        table.functions = {target: list(functions) for target, functions in table.functions.items()}
        return table

    setattr(ONNXRegistry, "from_torchlib", classmethod(known))  # noqa: B010 - to mypy it is no variable
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", own)  # noqa: B010


def _registered() -> Hashable:
    """Which functions operators have now: whoever registers one more gets a new table."""
    return frozenset(
        (name, *map(id, own.overloads), *map(id, own.complex)) for name, own in registration.default_registry.items()
    )


def _operators() -> int:
    """How many operators PyTorch has now: torchvision, torchao and others bring theirs when they are imported."""
    return len(torch._C._dispatch_get_all_op_names())
