"""Calls of a user's module that leave it as it was: its mode, attributes, weights and buffers, and random numbers."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Attributes and buffers behind the block are the objects that they were before it."""
    parts = [part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)]  # has neither in Python
    kept = [(part, dict(vars(part)), dict(part._buffers)) for part in parts]
    try:
        yield
    finally:
        for part, attributes, buffers in kept:
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; behind it the module is as it was.

    A module's own `eval` and `train` may merge weights and take them apart again, so both are called. What these and
    the block write into weights and buffers is put back to the bit, and so is the state of the random numbers that
    PyTorch, NumPy and Python draw on the CPU.
    """
    modes = [(part, part.training) for part in module.modules()]
    with draws_kept(), torch.no_grad(), state_kept(module), contents_kept(module):
        try:
            module.eval()
            yield
        finally:
            for part, training in modes:  # outer parts first: an inner one may be of another mode
                if part.training != training:
                    part.train(training)
            for part, training in modes:
                part.training = training


@contextmanager
def draws_kept() -> Iterator[None]:
    """Random numbers behind the block are as if none had been drawn inside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def contents_kept(module: nn.Module) -> Iterator[None]:
    """Numbers of weights, buffers and attributes behind the block are as before it; only what is written is copied."""
    attributes = [own for part in module.modules() for own in vars(part).values() if type(own) is Tensor]
    kept = [(own, own.data) for own in (*module.parameters(), *module.buffers(), *attributes) if address(own)]
    writes = _Writes(data for _, data in kept)
    try:
        with writes:
            yield
    finally:
        with torch.no_grad():
            for data, before in writes.before.values():
                data.copy_(before)
            for own, data in kept:
                if own.data_ptr() != data.data_ptr() or own.shape != data.shape:
                    own.data = data


class _Writes(TorchDispatchMode):
    """Copies tensors before an operator first writes to them.

    Args:
        tensors: to be copied; views are written to by their memory.
    """

    #: Of a tensor that was written to: itself, and its copy.
    before: dict[int, tuple[Tensor, Tensor]]
    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.before = {}
        self._at: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            self._at.setdefault(address(tensor), []).append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for place, name in _written_arguments(func):
            value = args[place] if place < len(args) else kwargs.get(name)
            for target in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(target, Tensor):
                    self._keep(address(target))
        return func(*args, **kwargs)

    def _keep(self, address: int) -> None:
        for tensor in self._at.get(address, ()):
            if id(tensor) not in self.before:
                self.before[id(tensor)] = tensor, tensor.clone()


@functools.cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments that an operator writes to."""
    if not hasattr(func, "_schema"):
        return ()
    return tuple(
        (place, own.name)
        for place, own in enumerate(func._schema.arguments)
        if (own.alias_info and own.alias_info.is_write) or own.name in _RUNNING.get(func._schema.name, ())
    )


#: Running statistics, which these write in training mode, as forward may ask in evaluation mode; no schema says so.
_RUNNING = {
    f"aten::{name}": ("running_mean", "running_var")
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
}


def address(tensor: Tensor) -> int:
    """Where a tensor's memory is; 0 where it has none of its own."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, ValueError):  # a subclass around other tensors, a lazy layer's without a shape
        return 0
