"""Tensors of which a process holds some rows, and other processes the rest: they are stored as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

_NAME = "held_rows"


@dataclass(frozen=True)
class Held:
    """Which rows of a whole tensor a tensor is.

    Attributes:
        start: the first one.
        count: rows of the whole.
    """

    start: int
    count: int


def hold(tensor: Tensor, held: Held | None) -> Tensor:
    """Say of a tensor which rows it is; None where it is whole."""
    setattr(tensor, _NAME, held)
    return tensor


def held_of(tensor: Tensor) -> Held | None:
    """Which rows of a whole tensor a tensor is; None where it is whole."""
    found: Held | None = getattr(tensor, _NAME, None)
    return found


def own_rows(own: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of whole tensors the rows that this process holds; those of another size, or that it has not, as they are.

    Args:
        own: name → what this process has, as `hold` has marked it.
        whole: name → what is stored.
    """
    found = dict(whole)
    for name in own.keys() & whole.keys():
        held = held_of(own[name])
        if held is not None and whole[name].dim() and len(whole[name]) == held.count:
            found[name] = whole[name][held.start : held.start + len(own[name])]
    return found
