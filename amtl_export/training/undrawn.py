"""Building a model whose weights are read from a file right after: nothing is drawn, and no more memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Functions that make a tensor of a given size; of `eye` that is its square.
_MAKING = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}

#: First values, which what is read replaces; a function of `init` calls others where this mode does not see it.
_INIT = {nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_}
_DRAWING = {Tensor.uniform_, Tensor.normal_, *_INIT}

#: Numbers that a model may need beside those that it keeps: features of ids, masks.
_BESIDE = 1 << 20


@contextmanager
def undrawn(numbers: int) -> Iterator[None]:
    """Inside the block, new tensors hold anything, torch's generator is left alone, and sizes are bounded.

    Args:
        numbers: that the file holds.

    Raises:
        ValueError: in the block: the model would be several times larger than its file.
    """
    with _Undrawn(8 * numbers + _BESIDE):
        yield


class _Undrawn(TorchFunctionMode):
    """Counts what is made, and draws nothing."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self._left = self._allowed = allowed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _MAKING:
            self._left -= _numbers(func, args)
            if self._left < 0:
                raise ValueError(
                    f"the settings are of a larger model than the file holds: over {self._allowed} numbers"
                )
        if func in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return (torch.zeros if func in (torch.randn, torch.rand) else func)(*args, **(kwargs or {}))


def _numbers(func: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """How many a call makes."""
    sizes = args[0] if args and isinstance(args[0], (tuple, list)) else args
    if func is torch.full:
        sizes = args[0]
    if func is torch.arange:
        whole = [int(size) for size in args if isinstance(size, (int, float))]
        return max(whole, default=0)
    total = 1
    for size in sizes:
        total *= int(size) if isinstance(size, int) else 1
    return total * total if func is torch.eye and len(args) == 1 else total
