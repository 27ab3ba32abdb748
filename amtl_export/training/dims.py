"""Mean dims, and holding them to a budget: ours, not the paper's, whose loss has no term for memory."""

from __future__ import annotations

import torch
from torch import Tensor

from amtl_export.errors import InputError
from amtl_export.models.amtl import MaskedEmbedding
from amtl_export.models.budget import SAMPLE, next_weight, project
from amtl_export.models.ctr import CtrModel
from amtl_export.models.mde import MixedEmbedding
from amtl_export.models.protocol import Budgeted, Prunable
from amtl_export.training.distributed import ALONE, Ranks


def all_dims(model: CtrModel, ranks: Ranks = ALONE) -> Tensor:
    """int64 `[V_total]`, dims of all rows; where they are selected, each process selects those of its part."""
    chooser = model.chooser
    if ranks.alone or not isinstance(chooser, MaskedEmbedding):
        return model.method.frozen_dims()
    dims = torch.zeros(chooser.table.rows, dtype=torch.int64)
    part = ranks.part(len(dims))
    dims[part] = chooser.frozen_dims(part)
    return ranks.sum_(dims)


def average_dim(model: CtrModel, ranks: Ranks = ALONE) -> float:
    """Mean dims over the rows of the governed fields, or of all if none is governed; padding left out.

    Args:
        model: any method.
        ranks: the processes that have it.
    """
    return mean_dims(model, all_dims(model, ranks))


def mean_dims(model: CtrModel, dims: Tensor, fields: list[int] | None = None) -> float:
    """Mean dims over the rows of some fields, padding left out.

    Args:
        model: any method.
        dims: int64 `[V_total]`.
        fields: positions in `config.embedded`; None means the governed ones, or all if none is governed.
    """
    own = [i for i, f in enumerate(model.config.embedded) if f.shares is None]
    chosen = fields or [i for i in own if model.config.embedded[i].governed] or own
    parts = [dims[model.method.offsets[i] : model.method.offsets[i] + model.method.sizes[i]] for i in chosen]
    kept = torch.cat(parts)
    return float(kept[kept > 0].double().mean())


def open_budget(ratio: float, model: CtrModel, *, trained: bool, ranks: Ranks = ALONE) -> SelectionBudget | None:
    """What holds a method to a budget in training; None where there is nothing to do until it is over.

    mde keeps it by how it is built; cut is cut at once when its weights are trained, else by
    `prune_trained`.

    Args:
        ratio: R.
        model: with its initial weights.
        trained: whether those are an earlier run's.
        ranks: the processes that train it.

    Raises:
        InputError: the method chooses no dims.
    """
    if isinstance(model.chooser, Budgeted):
        return SelectionBudget(ratio, model, model.chooser, ranks)
    if isinstance(model.chooser, Prunable):
        if trained:
            model.chooser.prune(ratio)
        return None
    if isinstance(model.chooser, MixedEmbedding):
        return None
    raise InputError(
        f"train: dim_budget={ratio} needs a method that selects dims",
        found=model.config.method,
        allowed="amtl, aml, amtl_nste, mde, cut",
    )


class SelectionBudget:
    """Brings the mean dims of the governed fields, weighted by rows, to at most ratio·D.

    In training a penalty weight·(mean dims / D) joins the loss. Its gradient is the mask's own
    (straight-through), and its weight is adapted at every step, as a Lagrange multiplier by dual ascent:
    weight <- max(0, weight + 0.02·(mean dims / D - ratio)). What is still above the budget at the end of an
    epoch is taken off by one slope for all ids, h_k - slope·k with the least slope that suffices, so that
    every epoch that can be chosen as the best keeps the budget.

    Args:
        ratio: R, within [1/D, 1].
        model: whose method is meant.
        method: the model's method.
        ranks: the processes that train the model.

    Attributes:
        weight: of the penalty, part of a checkpoint.
    """

    def __init__(self, ratio: float, model: CtrModel, method: Budgeted, ranks: Ranks) -> None:
        self.weight = 0.0
        self._ratio = ratio
        self._model = model
        self._method = method
        self._ranks = ranks

    def penalty(self) -> Tensor:
        """The term to add to the loss; adapts its weight."""
        ratio = self._method.sampled_mean_dims(SAMPLE) / self._model.config.dim
        self.weight = next_weight(self.weight, float(ratio.detach()), self._ratio)
        return self.weight * ratio

    def project(self) -> None:
        """Project the dims to the budget: take off what is above it."""
        allowed = self._ratio * self._model.config.dim
        try:
            project(self._method.last_biases(), lambda: average_dim(self._model, self._ranks), allowed)
        except ValueError:
            raise InputError(
                "the dim budget is below one dim an id", found=self._ratio, allowed=f">= {1 / self._model.config.dim}"
            ) from None


def prune_trained(ratio: float, model: CtrModel) -> None:
    """Prune by magnitude what has been trained whole; other methods are left as they are."""
    if isinstance(model.chooser, Prunable):
        model.chooser.prune(ratio)
