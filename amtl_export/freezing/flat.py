"""A model called with named tensors in order: what is traced, and what is run to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.freezing.reads import why_it_fails
from amtl_export.source.binding import Binding
from amtl_export.source.call import name_outputs
from amtl_export.spec import Feed, TensorSpec

#: Numbers of a buffer that may be a counter; larger ones are tables.
_SMALL = 1 << 16

#: Calls a model with the tensors of its inputs, in order; a tensor for each output.
Call = Callable[[nn.Module, Sequence[Tensor]], Sequence[Tensor]]


class Flat(nn.Module):
    """A model and how it is called.

    Args:
        model: any module; its parameters keep their names behind `model.`.
        call: of the model.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """One tensor for each output. What the model keeps of a call in its attributes and buffers is put back."""
        with state_kept(self.model):
            return tuple(self.call(self.model, tensors))


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Attributes and buffers behind the block are the objects that they were before it."""
    kept = [(part, dict(vars(part)), dict(part._buffers)) for part in model.modules()]
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
    """Evaluation mode and no gradients inside the block; each part's own mode again behind it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def answers(flat: Flat, feed: Feed, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Feed:
    """What a model answers in PyTorch, in evaluation mode.

    Args:
        flat: the model.
        feed: input → array.
        inputs: of the model, in order.
        outputs: names of what it gives.
    """
    device = device_of(flat)
    # Copies: a model may change its inputs as it reads them.
    tensors = [torch.from_numpy(np.array(feed[spec.name])).to(device) for spec in inputs]
    with evaluating(flat), buffers_kept(flat):
        given: Sequence[Any] = flat(*tensors)
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(outputs, given, strict=True)}


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Small buffers as they were behind the block, whatever was written into them."""
    kept = [(own, own._version, own.clone()) for own in module.buffers() if own.numel() <= _SMALL]
    try:
        yield
    finally:
        for own, version, before in kept:
            if own._version != version:
                with torch.no_grad():
                    own.copy_(before)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def example_outputs(trained: nn.Module, binding: Binding, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Names of what a user's module gives for its example.

    Args:
        trained: the module.
        binding: of the example.
        wanted: as `name_outputs` takes them.

    Raises:
        InputError: the module fails, or gives something else.
    """
    tensors = [tensor.clone().to(device_of(trained)) for tensor in binding.example.values()]
    try:
        answer = binding.call(trained, tensors)
    except Exception as error:  # whatever the user's forward raises
        found = why_it_fails(error, trained, lambda: binding.call(trained, tensors))
        raise InputError("the model fails on its example", where=type(trained).__name__, found=found) from error
    return name_outputs(answer, wanted)
