"""A budget for the mean dims of attached tables, for any training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amtl_export.models.attached.holders import AttachedTable
from amtl_export.models.attached.reading import selector_of, watch_of
from amtl_export.models.attached.tables import attached_tables, selectors
from amtl_export.models.budget import SAMPLE, next_weight, project


def dim_penalty(model: nn.Module, budget: float) -> Tensor:
    """A loss term that brings mean dims towards a budget: `loss = loss + dim_penalty(model, 0.4)`.

    It is weight·(mean dims / D), over sampled ids. The weight starts at 0, grows while mean dims are above the budget
    and falls while they are below. It is part of the state dict, and adapts at each call in training mode.

    Args:
        model: attached, in training mode; in evaluation mode the term has no gradient.
        budget: mean dims / D, at most; rows count alike in all attached tables.

    Returns:
        Float32, 0-d.

    Raises:
        ValueError: nothing is attached, or the budget is above 1 or below one dim an id.
    """
    tables = _budgeted(model, budget)
    rows = [len(table.table) for table in tables]
    with _full_precision(tables):
        samples = [selector_of(table, "weight").sampled_dims(SAMPLE) for table in tables]
    total = sum(n * dims for n, dims in zip(rows, samples, strict=True))
    ratio = torch.as_tensor(total / sum(rows) / _mean_width(tables))
    networks = selectors(model)
    weight = float(_penalty_weight(networks[0]))
    if any(network.training for network in networks):
        weight = next_weight(weight, float(ratio.detach()), budget)
        for network in networks:
            _penalty_weight(network).fill_(weight)
    return weight * ratio


def project_to_budget(model: nn.Module, budget: float) -> None:
    """Shift the selection's logits, in place, so that mean dims are at most budget·D; nothing if they are.

    Call it at the end of an epoch, before evaluation. All attached tables get the same slope, the least that suffices.
    Padding rows of zeros do not count.

    Args:
        model: attached.
        budget: mean dims / D, at most; rows count alike in all attached tables.

    Raises:
        ValueError: nothing is attached, or the budget is above 1 or below one dim an id.
    """
    tables = _budgeted(model, budget)
    networks = selectors(model)
    biases = [bias for network in networks for bias in network.last_biases()]
    with _full_precision(tables):
        project(biases, lambda: _mean_dims(tables), budget * _mean_width(tables))
    for network in networks:
        watch_of(network).restart(network.last_biases())


def _full_precision(tables: list[AttachedTable]) -> torch.autocast:
    """No autocast inside: dims are the same everywhere."""
    return torch.autocast(tables[0].table.device.type, enabled=False)


def _budgeted(model: nn.Module, budget: float) -> list[AttachedTable]:
    tables = list(attached_tables(model).values())
    if not tables:
        raise ValueError(f"{type(model).__name__} has no attached embedding; attach first")
    least = 1 / _mean_width(tables)
    if not least <= budget <= 1:
        raise ValueError(f"a dim budget is at most 1 and at least one dim an id, {least:g}; got {budget}")
    return tables


def _mean_width(tables: list[AttachedTable]) -> float:
    """D, as a mean over all rows."""
    return sum(table.table.numel() for table in tables) / sum(len(table.table) for table in tables)


def _mean_dims(tables: list[AttachedTable]) -> float:
    """Over all rows, padding rows of zeros left out."""
    dims = torch.cat([table.frozen_dims() for table in tables])
    return float(dims[dims > 0].double().mean())


def _penalty_weight(network: nn.Module) -> Tensor:
    return network.get_buffer("penalty_weight")
