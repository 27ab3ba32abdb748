"""Calls of models: of a user's module by its binding, of a run's model by its packed inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.models.config import ModelConfig
from amtl_export.source.binding import Binding
from amtl_export.source.tree import Leaves, Path, names_of
from amtl_export.spec import DATATYPES


@dataclass(frozen=True)
class ModuleCall:
    """Calls a user's module; a None among its outputs is left out."""

    binding: Binding

    def __call__(self, model: nn.Module, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One tensor for each output."""
        return [tensor for _, tensor in outputs_of(self.binding.call(model, tensors))]


@dataclass(frozen=True)
class RunCall:
    """Calls a run's model with `ids`, `numeric` and one input for each multi-valued field, whichever it has."""

    config: ModelConfig

    def __call__(self, model: nn.Module, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Logit and probability of each label, float32 `[B]` each, as `output_names` has them."""
        given = list(tensors)
        ids = given.pop(0) if self.config.single else None
        numeric = given.pop(0) if self.config.numeric else None
        logits: Tensor = model(ids, numeric, given)
        return [
            tensor
            for logit in (logits.unbind(1) if self.config.labels else (logits,))
            for tensor in (logit, torch.sigmoid(logit))
        ]


def outputs_of(value: Any) -> Leaves:
    """Path and tensor of everything in an answer.

    Raises:
        InputError: an answer that is not made of tensors.
    """
    leaves: Leaves = []
    _gather(value, (), leaves)
    return leaves


def _gather(value: Any, path: Path, leaves: Leaves) -> None:
    """As `flatten`, which detaches; here gradients do not matter and tracing needs the tensors themselves."""
    if isinstance(value, Tensor):
        leaves.append((path, value))
    elif value is None:
        return
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        for name, part in zip(names, value, strict=True):
            _gather(part, (*path, name), leaves)
    elif isinstance(value, dict):
        for name, part in value.items():
            _gather(part, (*path, name), leaves)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            _gather(getattr(value, name), (*path, name), leaves)
    elif hasattr(value, "to_dict"):  # TorchRec's KeyedTensor
        _gather(value.to_dict(), path, leaves)
    else:
        raise InputError(
            "an output of the model is no tensor",
            where=".".join(map(str, path)) or "the output",
            found=type(value).__name__,
            fix="wrap the model in a module that gives tensors",
        )


def name_outputs(answer: Any, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Names of a module's outputs.

    Args:
        answer: what it gave.
        wanted: names in order, one for each tensor; None takes a dict's or dataclass's keys, or numbers them.

    Raises:
        InputError: another number of outputs, one that is None was named, or one of a type that graphs do not give.
    """
    leaves = outputs_of(answer)
    if not leaves:
        raise InputError("the model gives no tensor", found=type(answer).__name__)
    names = _named(answer, leaves, wanted)
    for name, (_, tensor) in zip(names, leaves, strict=True):
        if str(tensor.dtype).removeprefix("torch.") not in DATATYPES:
            raise InputError(
                "an output is of a type that graphs do not give",
                where=name,
                found=tensor.dtype,
                allowed=", ".join(kind for kind in DATATYPES if kind != "object"),
                fix="give tensor.float()",
            )
    return names


def _named(answer: Any, leaves: Leaves, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return _default_names([path for path, _ in leaves])
    parts = list(answer) if isinstance(answer, (list, tuple)) else []
    if (
        len(wanted) != len(leaves)
        and len(wanted) == len(parts)
        and (empty := [n for n, part in zip(wanted, parts, strict=True) if part is None])
    ):
        raise InputError(
            "a named output is None", found=", ".join(empty), fix="leave it out of outputs: None is not exported"
        )
    if len(set(wanted)) != len(leaves) or len(wanted) != len(leaves):
        raise InputError("outputs: another number of names", found=list(wanted), allowed=f"{len(leaves)} names")
    return tuple(wanted)


def _default_names(paths: list[Path]) -> tuple[str, ...]:
    if len(paths) == 1 and not any(isinstance(part, str) for part in paths[0]):
        return ("output",)
    return tuple(names_of([path if any(isinstance(p, str) for p in path) else ("output", *path) for path in paths]))
