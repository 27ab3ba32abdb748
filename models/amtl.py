"""Masked embeddings: AMTL and its ablations, e_hat = m * e."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.models.selection import OneBranchSelector, Selector, SoftTwinSelector, TwinSelector
from amtl_export.models.table import zero_past


class MaskedEmbedding(FixedEmbedding):
    """e_hat = m * e for governed fields, e for the others.

    Args:
        config: of the model.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    selector: type[Selector] = TwinSelector

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__(config, counts)
        self._owners = config.owners
        self.selectors = nn.ModuleDict(
            {
                str(i): self.selector(count, config.widths[i], config.selection)
                for i, (field, count) in enumerate(zip(config.embedded, counts, strict=True))
                if field.governed and field.shares is None
            }
        )

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Masked rows of ids `[B, K]` as `[B, K, D]`."""
        rows = self.table.take(ids, fields)
        if len(fields) == 1:
            mask = self._mask(ids, fields[0])
            return rows if mask is None else rows * mask
        masks = [self._mask(ids[:, column], field) for column, field in enumerate(fields)]
        if all(mask is None for mask in masks):
            return rows
        one = rows.new_ones(()).expand(ids.shape[0], rows.shape[-1])
        return rows * torch.stack([one if mask is None else mask for mask in masks], dim=1)

    def _mask(self, ids: Tensor, field: int) -> Tensor | None:
        """Masks of ids of one field, `[*ids.shape, D]`: once per distinct id, where finding those is no wait."""
        name = str(self._owners[field])
        if name not in self.selectors:
            return None
        selector = self.selectors[name]
        assert isinstance(selector, Selector)
        if self.sizes[field] <= ids.numel():
            every = torch.arange(self.sizes[field], device=ids.device)
            return F.embedding(ids, self._whole(selector.mask(every)))
        if ids.is_cuda:
            return torch.reshape(self._whole(selector.mask(ids.flatten())), (*ids.shape, self.table.dim))
        distinct, place = torch.unique(ids, return_inverse=True)
        return F.embedding(place, self._whole(selector.mask(distinct)))

    def _whole(self, mask: Tensor) -> Tensor:
        """Masks `[U, D]` of those that are as wide as their field's rows."""
        return F.pad(mask, (0, self.table.dim - mask.shape[1])) if mask.shape[1] < self.table.dim else mask

    def _governed(self) -> Iterator[tuple[int, Selector]]:
        """Field and selector of every governed field."""
        for name, selector in self.selectors.items():
            assert isinstance(selector, Selector)
            yield int(name), selector

    def sampled_mean_dims(self, sample: int) -> Tensor:
        """Mean dims of the governed fields, weighted by rows, over sampled ids; its gradient is the mask's.

        Args:
            sample: ids drawn from each field; a smaller field is taken whole.
        """
        total, rows = self.table.weight.new_zeros(()), 0
        for field, selector in self._governed():
            total = total + self.sizes[field] * selector.sampled_dims(sample)
            rows += self.sizes[field]
        return total / max(rows, 1)

    def begin_at(self, field: int, ratio: float) -> None:
        """Start a field's selection near ratio·D dims."""
        selector = self.selectors[str(field)]
        assert isinstance(selector, Selector)
        selector.begin_at(ratio)

    def last_biases(self) -> list[nn.Parameter]:
        """Of all selectors: what `budget.shift_logits` shifts."""
        return [bias for _, selector in self._governed() for bias in selector.last_biases()]

    @torch.no_grad()
    def frozen_dims(self, rows: slice | None = None) -> Tensor:
        """int64 `[V_total]`: k + 1 for governed fields, D or the field's dim for the others, 0 for padding.

        Args:
            rows: of the table, first to last; their dims alone are worked out and given.
        """
        first, past, _ = (rows or slice(None)).indices(self.table.rows)
        dims = self.table.full_dims()[first:past]
        padding = dims == 0
        for field, selector in self._governed():
            offset = self.offsets[field]
            start = max(first, offset)
            end = max(start, min(past, offset + self.sizes[field]))
            for ids in torch.arange(start - offset, end - offset, device=dims.device).split(1 << 18):
                dims[ids + (offset - first)] = selector.dims(ids)
        dims[padding] = 0
        return dims

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`, zero past `frozen_dims`."""
        return zero_past(self.table.weight.detach(), self.frozen_dims())


class OneBranchEmbedding(MaskedEmbedding):
    """AML: one branch only."""

    selector = OneBranchSelector


class SoftMaskedEmbedding(MaskedEmbedding):
    """AMTL-nSTE: no straight-through estimator."""

    selector = SoftTwinSelector
