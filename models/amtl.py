"""Masked embeddings: AMTL and its ablations, e_hat = m * e."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

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
        """Masked rows of ids `[B, K]` as `[B, K, D]`: each distinct id is read, and masked, once.

        Where finding distinct ids is a wait, which it is on a GPU, each id is.
        """
        if not any(self._selects(field) for field in fields):
            return self.table.take(ids, fields)
        return self._read_each(ids, fields) if ids.is_cuda else self._read_distinct(ids, fields)

    def _read_each(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        masks = self._masks([own.flatten() for own in _columns(ids, fields)], fields)
        masks = masks.reshape(len(fields), -1, self.table.dim).transpose(0, 1)
        return self.table.take(ids, fields) * masks.reshape(*ids.shape, self.table.dim)

    def _read_distinct(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        found = [distinct(own, self.sizes[field]) for own, field in zip(_columns(ids, fields), fields, strict=True)]
        each = [own for own, _ in found]
        rows = self.table.take_each(each, fields) * self._masks(each, fields)
        starts = accumulate((len(own) for own in each[:-1]), initial=0)
        places = [place + start for (_, place), start in zip(found, starts, strict=True)]
        return F.embedding(places[0] if len(fields) == 1 else torch.stack(places, dim=1), rows)

    def _selects(self, field: int) -> bool:
        return str(self._owners[field]) in self.selectors

    def _masks(self, ids: Sequence[Tensor], fields: Sequence[int]) -> Tensor:
        """Masks of ids `[U]` of each field, one after the other, `[sum of U, D]`; of a field not governed its dim.

        All in one go: on few ids, what a step takes is the number of its operators. T is that of all selectors.
        """
        scores = [self._scores(own, field) for own, field in zip(ids, fields, strict=True)]
        return next(selector for _, selector in self._governed()).mask_of(torch.cat(scores))

    def _scores(self, ids: Tensor, field: int) -> Tensor:
        """h of ids `[U]` of one field, `[U, D]`; -inf past its dim, and before it too if it is not governed."""
        if not self._selects(field):
            only = self.table.weight.new_full((self.table.dim,), float("-inf"))
            only[self.table.widths[field] - 1] = 0
            return only.expand(len(ids), -1)
        selector = self.selectors[str(self._owners[field])]
        assert isinstance(selector, Selector)
        h = selector.scores(ids)
        return F.pad(h, (0, self.table.dim - h.shape[1]), value=float("-inf")) if h.shape[1] < self.table.dim else h

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


def _columns(ids: Tensor, fields: Sequence[int]) -> list[Tensor]:
    """Ids `[B, K]` by field: all of one, or a column of each of K."""
    return [ids] if len(fields) == 1 else list(ids.unbind(dim=1))


def distinct(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Distinct ids `[U]` in order, and the place there of each id, of the shape of ids.

    Args:
        ids: int64, any shape.
        size: V, above all of them. Up to as many as there are ids, nothing is sorted.
    """
    if size > ids.numel():
        found, place = torch.unique(ids, return_inverse=True)
        return found, place
    flat = ids.flatten()
    there = torch.zeros(size, dtype=torch.bool, device=ids.device).index_fill_(0, flat, True)
    place = (there.cumsum(0) - 1).index_select(0, flat)
    return there.nonzero().squeeze(1), place.reshape(ids.shape)


class OneBranchEmbedding(MaskedEmbedding):
    """AML: one branch only."""

    selector = OneBranchSelector


class SoftMaskedEmbedding(MaskedEmbedding):
    """AMTL-nSTE: no straight-through estimator."""

    selector = SoftTwinSelector
