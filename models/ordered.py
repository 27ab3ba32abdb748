"""Rows written in another basis, which the model keeps: e = z · basis, masked or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.protocol import EmbeddingMethod


class OrderedEmbedding(nn.Module):
    """e = z · basis of the field, z what another method looks up: cutting z cuts e in the order of the basis.

    For backbones in which a change of basis has nowhere else to go (crosses, attention). A basis is a parameter and
    trains like a layer of the backbone; it starts as the identity. Fields that share rows share the basis.

    Args:
        rows: the method that looks z up.
        config: of the model.

    Attributes:
        bases: float32 `[N, D, D]`, one for each governed field that has rows of its own.
        basis_of: position in `all_bases` of each embedded field's; N, the identity, of fields that are not governed.
    """

    def __init__(self, rows: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(rows, EmbeddingMethod)
        self.rows = rows
        self.sizes, self.offsets = rows.sizes, rows.offsets
        owners = [i for i, field in enumerate(config.embedded) if field.governed and field.shares is None]
        places = {owner: place for place, owner in enumerate(owners)}
        self.basis_of = tuple(places.get(owner, len(owners)) for owner in config.owners)
        self.bases = nn.Parameter(torch.eye(config.dim).repeat(len(owners), 1, 1))

    @property
    def inner(self) -> EmbeddingMethod:
        """The method that looks z up."""
        assert isinstance(self.rows, EmbeddingMethod)
        return self.rows

    def all_bases(self) -> Tensor:
        """float32 `[N + 1, D, D]`: `bases` and the identity."""
        return torch.cat([self.bases, torch.eye(self.bases.shape[-1], device=self.bases.device).unsqueeze(0)])

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`."""
        z, places = self.inner.lookup(ids, fields), [self.basis_of[field] for field in fields]
        if len(fields) == 1:
            return z @ self.all_bases()[places[0]]
        return torch.einsum("bkd,kde->bke", z, self.all_bases()[places])

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`, dims of z."""
        return self.inner.frozen_dims()
