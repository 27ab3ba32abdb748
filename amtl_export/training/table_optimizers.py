"""Optimizers for large tables: a step costs what its batch reads, with weight decay too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam


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
                    if self._decay:
                        grad = of_rows(grad, _decayed(grad, parameter, self._decay))
                    parameter.grad = grad
        return super().step(closure)  # type: ignore[no-untyped-call]  # PyTorch's


class RowwiseAdagrad(Optimizer):
    """Adagrad with one number for each row (Gupta et al., 2014, as FBGEMM's `EXACT_ROWWISE_ADAGRAD` has it).

    For g, the gradient of row w, plus decay · w:  s <- s + mean of g²,  w <- w - lr · g / (√s + eps).
    Of a sparse gradient only its rows take the step, decay and all; of a dense one all rows do.

    Args:
        params: tables `[V, D]`.
        lr: learning rate.
        decay: L2.
        eps: keeps a row without gradients from a division by zero.

    State of a table: `sum`, float32 `[V]`, s.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, decay: float = 0.0, eps: float = 1e-8) -> None:
        super().__init__(list(params), {"lr": lr})
        self._decay, self._eps = decay, eps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step."""
        if closure is not None:
            raise ValueError("RowwiseAdagrad takes no closure")
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["sum"] = torch.zeros(len(table), dtype=table.dtype, device=table.device)
                (self._step_rows if table.grad.is_sparse else self._step_all)(table, state["sum"], group["lr"])

    def _step_rows(self, table: nn.Parameter, total: Tensor, lr: float) -> None:
        grad = coalesced(table.grad)
        rows, values = grad.indices()[0], _decayed(grad, table, self._decay)
        own = total.index_select(0, rows).add_(values.square().mean(dim=1))
        total.index_copy_(0, rows, own)
        table.add_(of_rows(grad, values / own.sqrt_().add_(self._eps).unsqueeze(1)), alpha=-lr)

    def _step_all(self, table: nn.Parameter, total: Tensor, lr: float) -> None:
        grad = table.grad
        assert grad is not None
        values = grad.add(table, alpha=self._decay) if self._decay else grad
        total.add_(values.square().mean(dim=1))
        table.addcdiv_(values, total.sqrt().add_(self._eps).unsqueeze(1), value=-lr)


def coalesced(grad: Tensor | None) -> Tensor:
    """A sparse gradient with each row once, in order; one whose rows are so already is not sorted again."""
    assert grad is not None
    rows = grad._indices()[0]
    if grad.is_coalesced() or not bool((rows[1:] > rows[:-1]).all()):
        return grad.coalesce()
    return _sparse(grad._indices(), grad._values(), grad)


def of_rows(grad: Tensor, values: Tensor) -> Tensor:
    """Values `[U, D]` of the rows that a coalesced gradient has."""
    return _sparse(grad.indices(), values, grad)


def _sparse(indices: Tensor, values: Tensor, like: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(indices, values, like.shape, is_coalesced=True, check_invariants=False)


def _decayed(grad: Tensor, table: Tensor, decay: float) -> Tensor:
    """`[U, D]`: a coalesced gradient's values, plus decay times their rows."""
    values = grad.values()
    return values.add(table.index_select(0, grad.indices()[0]), alpha=decay) if decay else values
