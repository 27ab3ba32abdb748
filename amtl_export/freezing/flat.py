"""A model called with named tensors in order: what is traced, and what is run to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.compare import TOLERANCE, compare
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.freezing.kept import contents_kept, evaluating, state_kept
from amtl_export.freezing.reads import why_it_fails
from amtl_export.source.binding import Binding
from amtl_export.source.call import name_outputs, outputs_of
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
        """One tensor for each output. What the model keeps of a call in its attributes and buffers is put back."""
        with state_kept(self.model):
            return tuple(self.call(self.model, tensors))


def answers(flat: Flat, feed: Feed, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Feed:
    """What a model answers in PyTorch, in evaluation mode; it is as it was afterwards.

    Args:
        flat: the model.
        feed: input → array.
        inputs: of the model, in order.
        outputs: names of what it gives.
    """
    device = device_of(flat)
    # Copies: a model may change its inputs as it reads them.
    tensors = [torch.from_numpy(np.array(feed[spec.name])).to(device) for spec in inputs]
    with evaluating(flat.model):
        given: Sequence[Any] = flat(*tensors)
        # Copies: an answer may lie in a buffer, which is put back.
        return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in zip(outputs, given, strict=True)}


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; a table that tells its shape alone is nowhere."""
    tensors = (*module.parameters(), *module.buffers())
    return next((tensor.device for tensor in tensors if not tensor.is_meta), torch.device("cpu"))


def example_outputs(trained: nn.Module, binding: Binding, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Names of what a user's module gives for its example.

    Args:
        trained: the module; it is as it was afterwards.
        binding: of the example.
        wanted: as `name_outputs` takes them.

    Raises:
        InputError: the module fails, gives something else, or answers differently when it is asked again.
    """
    with evaluating(trained):
        before = torch.get_rng_state()
        names, first = _answered(trained, binding, wanted)
        drew = not torch.equal(before, torch.get_rng_state())
        _refuse_another_answer(first, _answered(trained, binding, wanted)[1], type(trained).__name__, drew=drew)
    return names


def _answered(trained: nn.Module, binding: Binding, wanted: Sequence[str] | None) -> tuple[tuple[str, ...], Feed]:
    """Names of what a module gives for its example, and copies of it."""
    tensors = [tensor.clone().to(device_of(trained)) for tensor in binding.example.values()]
    with state_kept(trained), contents_kept(trained):
        try:
            answer = binding.call(trained, tensors)
        except Exception as error:  # whatever the user's forward raises
            found = why_it_fails(error, trained, lambda: binding.call(trained, tensors))
            raise InputError(
                "the model fails on its example", where=type(trained).__name__, found=found, fix=binding.fix
            ) from error
        names = name_outputs(answer, wanted)
        if "" in names:
            raise InputError("an output has an empty name", where=type(trained).__name__, fix="outputs=[…] names them")
        values = [np.array(tensor.detach().cpu().numpy()) for _, tensor in outputs_of(answer)]
    return names, dict(zip(names, values, strict=True))


def _refuse_another_answer(first: Feed, second: Feed, where: str, *, drew: bool) -> None:
    """Refuse a module that cannot be compared with anything.

    Args:
        first: what it answered to its example.
        second: what it answered to the same.
        where: its name.
        drew: whether it drew random numbers.

    Raises:
        InputError: the answers differ by more than sums in another order do.
    """
    what = "the model answers differently twice" + drew * ": it draws random numbers in evaluation mode"
    fix = "a dropout by its function needs training=self.training" if drew else "let forward depend on its inputs alone"
    try:
        apart = [difference.output for difference in compare(first, second) if not difference.relative <= TOLERANCE]
    except ValidationFailed as error:  # another shape
        raise InputError(what, where=where, found=error.where, fix=fix) from None
    if apart:
        raise InputError(what, where=where, found=f"output {', '.join(apart)}", fix=fix)
