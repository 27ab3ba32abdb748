"""A model called with named tensors in order: what is traced, and what is run to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.spec import Feed, TensorSpec

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
        """One tensor for each output. What the model keeps of a call in its attributes is put back."""
        kept = {name: dict(vars(part)) for name, part in self.model.named_modules()}
        try:
            return tuple(self.call(self.model, tensors))
        finally:
            for name, part in self.model.named_modules():
                vars(part).clear()
                vars(part).update(kept[name])


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
    device = _device(flat)
    tensors = [torch.from_numpy(np.require(feed[spec.name], requirements="W")).to(device) for spec in inputs]
    with evaluating(flat):
        given: Sequence[Any] = flat(*tensors)
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(outputs, given, strict=True)}


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
