"""Selection from frequency: how many leading dims an id keeps (Yan et al., CIKM 2021)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.config import SelectionConfig


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


def mlp(width_in: int, hidden: Sequence[int], width_out: int) -> nn.Sequential:
    """AML: an MLP with ReLU between its layers."""
    widths = [width_in, *hidden]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], width_out))


class Selector(nn.Module):
    """Chooses the dims of one field's ids; `scores` is what the variants differ in.

        k = argmax h,  t = one_hot(k),  t_hat = softmax(h / T)
        m = t M,  M[i, j] = 1 if j <= i else 0

    Args:
        counts: int64 `[V]`.
        dim: D.
        config: features, hidden widths, T, norm.
    """

    features: Tensor

    def __init__(self, counts: Tensor, dim: int, config: SelectionConfig) -> None:
        super().__init__()
        self.dim = dim
        self.config = config
        self.temperature = config.temperature
        self.set_counts(counts)

    def set_counts(self, counts: Tensor) -> None:
        """Compute what depends on the counts (int64 `[V]`, on the CPU): buffers that no state dict has."""
        self.register_buffer("features", frequency_features(counts, self.config.features), persistent=False)

    @abstractmethod
    def scores(self, ids: Tensor) -> Tensor:
        """h of ids `[U]`, float32 `[U, D]`."""

    @torch.no_grad()
    def begin_at(self, ratio: float | None) -> None:
        """Start the last biases so that h peaks near ratio·D dims; None leaves them."""
        if ratio is not None:
            k = torch.arange(self.dim)
            for bias in self.last_biases():
                bias.copy_(-4 * (k + 1 - ratio * self.dim).abs() / self.dim)

    @abstractmethod
    def last_biases(self) -> list[nn.Parameter]:
        """Float32 `[D]` each: adding c to all of them adds c to h."""

    def dims(self, ids: Tensor) -> Tensor:
        """k + 1 of ids `[U]`, int64 `[U]`, 1..D."""
        return self.scores(ids).argmax(dim=-1) + 1

    def sampled_dims(self, sample: int) -> Tensor:
        """Mean dims over sampled ids, 0-d; its gradient is the mask's.

        Args:
            sample: ids drawn; a smaller vocabulary is taken whole.
        """
        size = len(self.features)
        ids = torch.arange(size) if size <= sample else torch.randint(size, (sample,))
        return self.mask(ids.to(self.features.device)).sum(dim=1).mean()

    def mask(self, ids: Tensor) -> Tensor:
        """m of ids `[U]`, float32 `[U, D]`, of 0 and 1; in training its gradient is that of t_hat M."""
        return self.mask_of(self.scores(ids))

    def mask_of(self, h: Tensor) -> Tensor:
        """m of scores h, float32 `[U, D]`; D may be more than this selector's, and an h of -inf is never chosen."""
        if not (self.training and h.requires_grad):
            return leading(h)
        mask: Tensor = StraightThrough.apply(h, self.temperature)  # type: ignore[no-untyped-call]  # PyTorch's
        return mask


def leading(h: Tensor) -> Tensor:
    """one_hot(argmax h) M of `[U, D]`, by comparison: 1 up to the argmax, 0 past it."""
    return (torch.arange(h.shape[-1], device=h.device) <= h.argmax(dim=-1, keepdim=True)).to(h.dtype)


class StraightThrough(torch.autograd.Function):
    """m = t M forward, with the gradient of t_hat M, t_hat = softmax(h / T).

    For g of m: of t_hat_i it is G_i = sum of g_j for j <= i, and of h  t_hat (G - sum of t_hat G) / T.
    """

    @staticmethod
    def forward(h: Tensor, temperature: float) -> Tensor:  # noqa: ARG004 - of the gradient
        """float32 `[U, D]` to float32 `[U, D]` of 0 and 1."""
        return leading(h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004
        """Keep h: softmax is cheap beside what would keep it."""
        ctx.save_for_backward(inputs[0])
        ctx.temperature = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """Of h; T learns nothing."""
        (h,) = ctx.saved_tensors
        t_hat, G = F.softmax(_over(h, ctx.temperature), dim=-1), g.cumsum(dim=-1)
        weighted = t_hat * G
        return _over(weighted - t_hat * weighted.sum(dim=-1, keepdim=True), ctx.temperature), None


def _over(h: Tensor, temperature: float) -> Tensor:
    return h if temperature == 1.0 else h / temperature


def cumulate(t: Tensor) -> Tensor:
    """t M: out[j] = sum of t[i] for i >= j."""
    return t.flip(-1).cumsum(-1).flip(-1)


class OneBranchSelector(Selector):
    """AML, the paper's ablation: h = AML(s), one MLP for rare and frequent ids alike."""

    def __init__(self, counts: Tensor, dim: int, config: SelectionConfig) -> None:
        super().__init__(counts, dim, config)
        self.only = mlp(len(config.features), config.hidden, dim)
        self.begin_at(config.initial_ratio)

    def scores(self, ids: Tensor) -> Tensor:
        """h of ids `[U]`, float32 `[U, D]`."""
        h: Tensor = self.only(self.features.index_select(0, ids))
        return h

    def last_biases(self) -> list[nn.Parameter]:
        """Of the one MLP."""
        return [last_bias(self.only)]


class TwinSelector(Selector):
    """AMTL: twins mixed by a soft switch.

    h_high = AML_high(s), h_low = AML_low(s)
    alpha  = sigmoid(norm(q)),  h = alpha·h_high + (1 - alpha)·h_low
    """

    switch: Tensor

    def __init__(self, counts: Tensor, dim: int, config: SelectionConfig) -> None:
        super().__init__(counts, dim, config)
        self.high = mlp(len(config.features), config.hidden, dim)
        self.low = mlp(len(config.features), config.hidden, dim)
        self.begin_at(config.initial_ratio)

    def set_counts(self, counts: Tensor) -> None:
        """The features, and alpha of every id."""
        super().set_counts(counts)
        self.register_buffer("switch", torch.sigmoid(switch_input(counts, self.config.norm)), persistent=False)

    def scores(self, ids: Tensor) -> Tensor:
        """h of ids `[U]`, float32 `[U, D]`."""
        s, alpha = self.features.index_select(0, ids), self.switch.index_select(0, ids).unsqueeze(-1)
        return torch.lerp(self.low(s), self.high(s), alpha)

    def last_biases(self) -> list[nn.Parameter]:
        """Of both twins: alpha and 1 - alpha add up to 1."""
        return [last_bias(self.high), last_bias(self.low)]


class SoftTwinSelector(TwinSelector):
    """AMTL-nSTE, the paper's ablation: m = t_hat M in training, hard in evaluation.

    `soft_evaluation` keeps the soft mask in evaluation too, to measure what hardening costs.
    """

    soft_evaluation = False

    def mask_of(self, h: Tensor) -> Tensor:
        """m of scores h, float32 `[U, D]`: within [0, 1] in training, of 0 and 1 in evaluation."""
        if not (self.training or self.soft_evaluation):
            return super().mask_of(h)
        return cumulate(F.softmax(h / self.temperature, dim=-1))


def last_bias(layers: nn.Sequential) -> nn.Parameter:
    """The bias of an MLP's output layer."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    return last.bias
