"""`attach`: put AMTL behind `nn.Embedding`s of a model that somebody else wrote and trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.config import SelectionConfig
from amtl_export.models.selection import Selector, TwinSelector

M = TypeVar("M", bound=nn.Module)


class AttachedEmbedding(nn.Module):
    """An `nn.Embedding` with its rows masked; called like one.

    Keeps the embedding's own weight (the same parameter, so an optimizer that has it goes on), its
    padding row, and whether its gradient is sparse.

    Args:
        embedding: what it stands in for.
        counts: int64 `[V]`, training occurrences of every row.
        config: of the selection network.
        selector: which selection network.

    Raises:
        ValueError: counts do not fit, or the embedding renormalises its rows (`max_norm`).
    """

    def __init__(
        self, embedding: nn.Embedding, counts: Tensor, config: SelectionConfig, selector: type[Selector] = TwinSelector
    ) -> None:
        super().__init__()
        V, D = embedding.weight.shape
        if counts.shape != (V,):
            raise ValueError(f"{tuple(counts.shape)} counts for {V} rows")
        if embedding.max_norm is not None:
            raise ValueError("an embedding with max_norm changes its rows as it is read and cannot be frozen")
        self.weight = embedding.weight
        self.padding_idx = embedding.padding_idx
        self.sparse = embedding.sparse
        self.selector = selector(counts, D, config).to(embedding.weight.device)
        self.sizes, self.offsets = (V,), (0,)

    def forward(self, ids: Tensor) -> Tensor:
        """Masked rows, `[*ids.shape, D]`; selected once per distinct id."""
        rows = F.embedding(ids, self.weight, self.padding_idx, sparse=self.sparse)
        distinct, place = torch.unique(ids, return_inverse=True)
        return rows * F.embedding(place, self.selector.mask(distinct))

    @torch.no_grad()
    def frozen_dims(self) -> Tensor:
        """int64 `[V]`: k + 1, and 0 for a padding row of zeros."""
        every = torch.arange(self.sizes[0], device=self.weight.device)
        dims = torch.cat([self.selector.dims(part) for part in torch.split(every, 1 << 18)])
        if self.padding_idx is not None and not bool(self.weight[self.padding_idx].any()):
            dims[self.padding_idx] = 0
        return dims

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V, D]`, zero past `frozen_dims`."""
        kept = torch.arange(self.weight.shape[1], device=self.weight.device) < self.frozen_dims().unsqueeze(1)
        return torch.where(kept, self.weight.detach(), 0.0)


def attach(
    model: M,
    fields: Mapping[str, Tensor],
    config: SelectionConfig | None = None,
    selector: type[Selector] = TwinSelector,
) -> M:
    """Put a selection network behind embeddings, in place; nothing is retrained from scratch.

    Fine-tune with your own loop (the new parameters are the `selector.*` ones), then `freeze_module` and
    `export_module`.

    Args:
        model: any module; its forward is not touched.
        fields: dotted name of an `nn.Embedding` → int64 `[V]`, training occurrences of every row.
        config: of the selection networks.
        selector: which selection network.

    Returns:
        The model.

    Raises:
        ValueError: a name is no embedding of the model, or counts do not fit; the model is as it was.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    unknown = sorted(set(fields) - set(found))
    if unknown:
        raise ValueError(f"no nn.Embedding named {', '.join(unknown)}; the model has {', '.join(found) or 'none'}")
    made: dict[str, AttachedEmbedding] = {}
    for name, counts in fields.items():
        try:
            made[name] = AttachedEmbedding(found[name], counts, config or SelectionConfig(), selector)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for name, attached in made.items():
        model.set_submodule(name, attached.train(model.training))
    return model


def counts_of(module: nn.Module) -> Tensor:
    """Counts."""
    raise NotImplementedError


def is_attached(module: object) -> bool:
    """Whether attached."""
    return isinstance(module, AttachedEmbedding)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Class."""
    return nn.Embedding if isinstance(module, AttachedEmbedding) else type(module)
