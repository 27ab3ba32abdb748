"""What an error in a row does to a model's answer: G = E[gᵀ g], g the gradient of the logit in the row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import EmbeddingMethod
from amtl_export.principal.basis import Matrix

#: What a `CtrModel` is called with: ids, numbers, and ids of each multi-valued field.
Inputs = tuple[Tensor | None, Tensor | None, Sequence[Tensor]]


@dataclass(frozen=True)
class Lookup:
    """Rows that a model looked up.

    Attributes:
        ids: int64 `[B, K]`.
        fields: of the columns; one for all, or K.
        rows: float32 `[B, K, D]`, a leaf: after a backward pass its gradient is that of the rows.
    """

    ids: Tensor
    fields: tuple[int, ...]
    rows: Tensor


@contextmanager
def recorded(method: EmbeddingMethod) -> Iterator[list[Lookup]]:
    """Every lookup of a method inside the block, each in a graph of its own: what reads the rows, nothing before."""
    lookups: list[Lookup] = []
    plain = method.lookup

    def lookup(ids: Tensor, fields: Sequence[int]) -> Tensor:
        rows = plain(ids, fields).detach().requires_grad_()
        lookups.append(Lookup(ids, tuple(fields), rows))
        return rows

    vars(method)["lookup"] = lookup
    try:
        yield lookups
    finally:
        del vars(method)["lookup"]


def gradient_metrics(model: CtrModel, batches: Iterable[Inputs]) -> list[Matrix]:
    """G of every embedded field, float64 `[D, D]`; of a field that shares another's rows it is in that one's.

    Of several labels, the sum of each one's.

    Args:
        model: in evaluation mode.
        batches: a sample of requests.
    """
    D, fields = model.config.dim, model.config.embedded
    totals, examples = [np.zeros((D, D)) for _ in fields], 0
    for ids, numeric, multi in batches:
        for label in range(model.config.outputs):
            with recorded(model.method) as lookups, torch.enable_grad():
                logits = model(ids, numeric, multi)
                logits.reshape(len(logits), -1)[:, label].sum().backward()  # examples are independent of each other
            for looked_up in lookups:
                for field, gradient in _by_field(looked_up, [own.padding for own in fields]):
                    totals[model.config.owners[field]] += (gradient.T @ gradient).numpy()
        examples += len(logits)
    model.zero_grad(set_to_none=True)
    return [total / max(examples, 1) for total in totals]


def _by_field(lookup: Lookup, paddings: Sequence[int | None]) -> Iterator[tuple[int, Tensor]]:
    """Fields and their gradients, float64 `[n, D]`, padding left out."""
    if lookup.rows.grad is None:
        return
    gradient = lookup.rows.grad.double().cpu()
    if len(lookup.fields) > 1:
        yield from ((field, gradient[:, column]) for column, field in enumerate(lookup.fields))
        return
    (field,) = lookup.fields
    padding = paddings[field]
    present = torch.ones_like(lookup.ids, dtype=torch.bool) if padding is None else lookup.ids != padding
    yield field, gradient[present.cpu()]
