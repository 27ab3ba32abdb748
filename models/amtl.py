"""AMTL: the Adaptively-Masked Twins-based Layer (Yan et al., CIKM 2021), equation by equation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig, SelectionConfig
from amtl_export.models.table import FieldTable


def frequency_features(counts: Tensor, names: Sequence[str]) -> Tensor:
    """s of the paper: features of every id of a field, z-scored over its vocabulary.

    Args:
        counts: int64 `[V]`.
        names: of `models.config.FEATURES`.

    Returns:
        float32 `[V, z]`.
    """
    count = counts.to(torch.float64)
    # Ties share no rank: equal counts are ordered by id, which is the vocabulary's own order.
    order = torch.argsort(count, descending=True, stable=True)
    rank = torch.empty_like(count)
    rank[order] = torch.arange(len(count), dtype=torch.float64)
    values = {"log_count": torch.log1p(count), "log_rank": -torch.log1p(rank), "sqrt_count": count.sqrt()}
    return torch.stack([_zscore(values[name]) for name in names], dim=1).to(torch.float32)


def switch_input(counts: Tensor, norm: str) -> Tensor:
    """norm(q): float32 `[V]`, the log count scaled over the field's vocabulary."""
    q = torch.log1p(counts.to(torch.float64))
    if norm == "minmax":
        span = (q.max() - q.min()).clamp(min=1e-12)
        return (2 * (q - q.min()) / span - 1).to(torch.float32)
    return _zscore(q).to(torch.float32)


def _zscore(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)


def perceptron(width_in: int, hidden: Sequence[int], width_out: int) -> nn.Sequential:
    """AML: a multi-layer perceptron with ReLU between its layers."""
    widths = [width_in, *hidden]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], width_out))


class TwinSelector(nn.Module):
    """Chooses the dims of one field's ids from their frequency.

        h_high = AML_high(s), h_low = AML_low(s)
        alpha  = sigmoid(norm(q)),  h = alpha·h_high + (1 - alpha)·h_low
        k      = argmax h,  t = one_hot(k),  t_hat = softmax(h / T)
        m      = t M,  M[i, j] = 1 if j <= i else 0

    Args:
        counts: int64 `[V]`.
        dim: D.
        config: features, hidden widths, T, norm.
    """

    features: Tensor
    switch: Tensor

    def __init__(self, counts: Tensor, dim: int, config: SelectionConfig) -> None:
        super().__init__()
        self.dim = dim
        self.temperature = config.temperature
        self.register_buffer("features", frequency_features(counts, config.features), persistent=False)
        self.register_buffer("switch", torch.sigmoid(switch_input(counts, config.norm)), persistent=False)
        self.high = perceptron(len(config.features), config.hidden, dim)
        self.low = perceptron(len(config.features), config.hidden, dim)

    def scores(self, ids: Tensor) -> Tensor:
        """h of ids `[U]`, float32 `[U, D]`."""
        s, alpha = self.features[ids], self.switch[ids].unsqueeze(-1)
        h: Tensor = alpha * self.high(s) + (1 - alpha) * self.low(s)
        return h

    def dims(self, ids: Tensor) -> Tensor:
        """k + 1 of ids `[U]`, int64 `[U]`, 1..D."""
        return self.scores(ids).argmax(dim=-1) + 1

    def mask(self, ids: Tensor) -> Tensor:
        """m of ids `[U]`, float32 `[U, D]`, of 0 and 1; in training its gradient is that of t_hat M."""
        h = self.scores(ids)
        t = F.one_hot(h.argmax(dim=-1), self.dim).to(h.dtype)
        if self.training:
            t_hat = F.softmax(h / self.temperature, dim=-1)
            t = t + (t_hat - t_hat.detach())  # exactly t forward: the bracket is exactly zero
        return self.cumulate(t)

    @staticmethod
    def cumulate(t: Tensor) -> Tensor:
        """t M: out[j] = sum of t[i] for i >= j."""
        return t.flip(-1).cumsum(-1).flip(-1)


class MaskedEmbedding(nn.Module):
    """e_hat = m * e for governed fields, e for the others.

    Args:
        config: of the model.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        self.table = FieldTable(config.embedded, config.dim, counts, config.sparse)
        self.sizes, self.offsets = self.table.sizes, self.table.offsets
        self.selectors = nn.ModuleDict(
            {
                str(i): TwinSelector(count, config.dim, config.selection)
                for i, (field, count) in enumerate(zip(config.embedded, counts, strict=True))
                if field.governed
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
        """Masks of ids of one field, `[*ids.shape, D]`: selected once per distinct id."""
        if str(field) not in self.selectors:
            return None
        selector = self.selectors[str(field)]
        assert isinstance(selector, TwinSelector)
        if self.sizes[field] <= ids.numel():
            every = torch.arange(self.sizes[field], device=ids.device)
            return F.embedding(ids, selector.mask(every))
        distinct, place = torch.unique(ids, return_inverse=True)
        return F.embedding(place, selector.mask(distinct))

    @torch.no_grad()
    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: k + 1 for governed fields, D for the others, 0 for padding."""
        dims = self.table.full_dims()
        padding = dims == 0
        for name, selector in self.selectors.items():
            assert isinstance(selector, TwinSelector)
            field = int(name)
            every = torch.arange(self.sizes[field], device=dims.device)
            self.table.part(dims, field).copy_(torch.cat([selector.dims(part) for part in every.split(1 << 18)]))
        dims[padding] = 0
        return dims

    @torch.no_grad()
    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`, zero past `frozen_dims`."""
        kept = torch.arange(self.table.dim, device=self.table.weight.device) < self.frozen_dims().unsqueeze(1)
        return torch.where(kept, self.table.weight.detach(), 0.0)
