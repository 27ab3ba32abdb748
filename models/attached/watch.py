"""`TrainingWatch`: notices that a table is trained and its selection network is not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

#: Optimizer steps of the table, with gradients for its selection network, after which it should have moved.
STEPS = 10
#: Passes with such gradients, where the table itself is not trained.
PASSES = 1000


class TrainingWatch:
    """Warns once if an optimizer leaves a selection network out.

    An optimizer step is a change of the table's parameter, so gradients accumulated over many batches are one step.
    A selection network that needs no gradient, or that has moved, is left alone.

    Args:
        where: dotted name of the weight.
        biases: of the selection network, as they start.
    """

    def __init__(self, where: str, biases: Sequence[nn.Parameter]) -> None:
        self.where = where
        self._has_gradients = self._done = False
        self._table_version = -1
        self.restart(biases)

    def restart(self, biases: Sequence[nn.Parameter]) -> None:
        """What the biases are now is where they start: no optimizer wrote them."""
        self._start = [bias.detach().cpu().clone() for bias in biases]
        self._selector_version = _version(biases)
        self._steps = self._passes = 0

    def note_gradient(self, _: Tensor) -> None:
        """Hook of a mask: it got a gradient."""
        self._has_gradients = True

    def observe(self, table: Tensor, biases: Sequence[nn.Parameter]) -> None:
        """Take note of a training pass."""
        if self._done:
            return
        if _version(biases) != self._selector_version:
            self._begin_anew(biases)
        if self._has_gradients:
            self._count(table)
        self._table_version = table._version
        if (self._steps >= STEPS or self._passes >= PASSES) and not self._has_moved(biases):
            self._warn()

    def _begin_anew(self, biases: Sequence[nn.Parameter]) -> None:
        """Somebody wrote to the selection network: an optimizer, or a copy to another device."""
        self._selector_version = _version(biases)
        self._steps = self._passes = 0
        self._done = self._has_moved(biases)

    def _count(self, table: Tensor) -> None:
        self._passes += 1
        self._steps += table._version != self._table_version
        self._has_gradients = False

    def _has_moved(self, biases: Sequence[nn.Parameter]) -> bool:
        return any(not bias.detach().cpu().equal(start) for bias, start in zip(biases, self._start, strict=True))

    def _warn(self) -> None:
        self._done = True
        warnings.warn(
            f"{self.where} is attached and trained, but no optimizer moves its selection network; hand it over: "
            'optimizer.add_param_group({"params": selection_parameters(model)}), or freeze it: requires_grad_(False)',
            UserWarning,
            stacklevel=2,
        )


def _version(biases: Sequence[nn.Parameter]) -> int:
    return sum(bias._version for bias in biases)
