"""Holding mean dims to a budget: a penalty in training, and a projection that always suffices.

Ours, not the paper's, whose loss has no term for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

#: Ids of a field that a penalty looks at in one step.
SAMPLE = 512
_RATE = 0.02
_STEEPEST = 1e6
_BISECTIONS = 30
_CLOSE = 1e-3


def next_weight(weight: float, ratio: float, budget: float) -> float:
    """A penalty's weight, a Lagrange multiplier, after one step of dual ascent.

    weight <- max(0, weight + 0.02·(mean dims / D - budget))

    Args:
        weight: so far.
        ratio: mean dims / D, as it is.
        budget: mean dims / D, at most.
    """
    return max(0.0, weight + _RATE * (ratio - budget))


@torch.no_grad()
def shift_logits(biases: Sequence[nn.Parameter], slope: float) -> None:
    """Add -slope·k to every h_k, so that a positive slope makes all ids keep fewer dims.

    Args:
        biases: float32 `[D]` each, of the output layers of selection networks.
        slope: positive for fewer dims, negative for more.
    """
    for bias in biases:
        bias.sub_(slope * torch.arange(len(bias), device=bias.device))


@torch.no_grad()
def project(biases: Sequence[nn.Parameter], mean_dims: Callable[[], float], allowed: float) -> None:
    """Shift logits by the least slope that brings the mean dims to the budget; nothing if they keep it.

    Afterwards they are at most `allowed`, measured with the biases as they stay. The search ends when they are within
    a thousandth of it.

    Args:
        biases: as of `shift_logits`.
        mean_dims: measures them, with the biases as they are.
        allowed: mean dims, at most.

    Raises:
        ValueError: no slope suffices; the biases are as they were.
    """
    if mean_dims() <= allowed:
        return
    start = [bias.clone() for bias in biases]

    def dims_at(slope: float) -> float:
        """From the start every time, so that nothing is lost to rounding."""
        for bias, value in zip(biases, start, strict=True):
            bias.copy_(value)
        shift_logits(biases, slope)
        return mean_dims()

    slope = _least(dims_at, allowed)
    dims_at(slope or 0.0)
    if slope is None:
        raise ValueError(f"no logits shift brings mean dims to {allowed:g}; an id keeps one dim at least")


def _least(dims_at: Callable[[float], float], allowed: float) -> float | None:
    """The least slope that suffices, nearly; None if none up to 1e6 does."""
    low, high = 0.0, 1e-3
    while (dims := dims_at(high)) > allowed:
        low, high = high, 2 * high
        if high > _STEEPEST:
            return None
    for _ in range(_BISECTIONS):
        if dims >= (1 - _CLOSE) * allowed:
            break
        middle = (low + high) / 2
        if (mean := dims_at(middle)) > allowed:
            low = middle
        else:
            high, dims = middle, mean
    return high
