"""Adam for large tables: a step costs what its batch reads, with weight decay too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SparseAdam


class RowDecayAdam(SparseAdam):
    """`SparseAdam` whose weight decay is that of the rows in a gradient: L2 of what a batch reads.

    Adam's own decay pulls every row in every step, so that a step costs the whole table.

    Args:
        params: tables with sparse gradients.
        lr: learning rate.
        decay: what a row of the gradient gains of its own row, as L2 has it.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(list(params), lr=lr)
        self._decay = decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over the rows that have gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    grad = coalesced(parameter.grad)
                    parameter.grad = self._decayed(parameter, grad) if self._decay else grad
        return super().step(closure)  # type: ignore[no-untyped-call]  # PyTorch's

    def _decayed(self, table: nn.Parameter, grad: torch.Tensor) -> torch.Tensor:
        rows = grad.indices()[0]
        values = grad.values().add(table[rows], alpha=self._decay)
        return torch.sparse_coo_tensor(grad.indices(), values, grad.shape, is_coalesced=True, check_invariants=False)


def coalesced(grad: torch.Tensor) -> torch.Tensor:
    """A sparse gradient with each row once, in order; one whose rows are so already is not sorted again."""
    rows = grad._indices()[0]
    if grad.is_coalesced() or not bool((rows[1:] > rows[:-1]).all()):
        return grad.coalesce()
    return torch.sparse_coo_tensor(
        grad._indices(), grad._values(), grad.shape, is_coalesced=True, check_invariants=False
    )
