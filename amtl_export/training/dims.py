"""Mean dims, and holding them to a budget: ours, not the paper's, whose loss has no term for memory."""

from __future__ import annotations

import torch
from torch import Tensor

from amtl_export.errors import InputError
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import Budgeted

_SAMPLE = 512
_RATE = 0.02


def average_dim(model: CtrModel, fields: list[int] | None = None) -> float:
    """Mean dims over the rows of some fields, padding left out.

    Args:
        model: any method.
        fields: positions in `config.embedded`; None means the governed ones, or all if none is governed.
    """
    dims = model.method.frozen_dims()
    embedded = model.config.embedded
    chosen = fields or [i for i, f in enumerate(embedded) if f.governed] or list(range(len(embedded)))
    parts = []
    for i in chosen:
        part = dims[model.method.offsets[i] : model.method.offsets[i] + model.method.sizes[i]]
        padding = embedded[i].padding
        parts.append(part if padding is None else part[torch.arange(len(part)) != padding])
    return float(torch.cat(parts).double().mean())


class DimBudget:
    """Brings the mean dims of the governed fields, weighted by rows, to at most ratio·D.

    In training a penalty weight·(mean dims / D) joins the loss. Its gradient is the mask's own
    (straight-through), and its weight is adapted at every step, as a Lagrange multiplier by dual ascent:
    weight <- max(0, weight + 0.02·(mean dims / D - ratio)). What is still above the budget at the end of an
    epoch is taken off by one slope for all ids, h_k - slope·k with the least slope that suffices, so that
    every epoch that can be chosen as the best keeps the budget.

    Args:
        ratio: R, within (0, 1].
        model: its method must be able to select.
        weight: of the penalty, to go on from.

    Raises:
        InputError: the model's method chooses no dims.
    """

    def __init__(self, ratio: float, model: CtrModel, weight: float = 0.0) -> None:
        if not isinstance(model.embedding, Budgeted):
            raise InputError(
                "train: --dim-budget needs a method that selects dims",
                found=model.config.method,
                allowed="amtl, aml, amtl_nste",
            )
        self.ratio = ratio
        self.weight = weight
        self._model = model
        self._method: Budgeted = model.embedding

    def penalty(self) -> Tensor:
        """The term to add to the loss; adapts its weight."""
        ratio = self._method.sampled_mean_dims(_SAMPLE) / self._model.config.dim
        self.weight = max(0.0, self.weight + _RATE * (float(ratio.detach()) - self.ratio))
        return self.weight * ratio

    def enforce(self) -> float:
        """Take off what is above the budget; the slope that it took (0 if none)."""
        allowed = self.ratio * self._model.config.dim
        if average_dim(self._model) <= allowed:
            return 0.0
        low, high = 0.0, 1e-3
        while self._dims_at(high) > allowed:
            low, high = high, 2 * high
            if high > 1e6:
                raise InputError("the dim budget is below one dim an id", found=self.ratio, allowed=f">= {1 / allowed}")
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self._dims_at(middle) > allowed else (low, middle)
        self._method.lean(high)
        return high

    def _dims_at(self, slope: float) -> float:
        """Mean dims with a slope; the selection network is as before afterwards."""
        self._method.lean(slope)
        dims = average_dim(self._model)
        self._method.lean(-slope)
        return dims
