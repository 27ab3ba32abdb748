"""AUC, group AUC and logloss, exact in float64, from logits; rank correlation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[Any]


def auc(logits: Logits, label: npt.NDArray[Any], weight: npt.NDArray[Any] | None = None) -> float:
    """Area under the ROC curve: the chance that a click outranks a non-click, ties counting half.

    Computed from average ranks (the Mann-Whitney statistic), so nothing is lost to a sigmoid's rounding. With weights,
    the pair of click i and non-click j counts w_i · w_j.

    Args:
        logits: `[N]`, any float type.
        label: `[N]`, 0 or 1.
        weight: `[N]`, finite and not negative; None where all examples count alike.

    Raises:
        ValueError: a logit is NaN, or there is only one class among the examples of a weight above 0.
    """
    _refuse_nan(logits)
    positive = label == 1
    counted = positive if weight is None else positive[weight > 0]
    n_pos = int(counted.sum())
    n_neg = len(counted) - n_pos
    if n_pos == 0 or n_neg == 0:
        raise ValueError(f"AUC needs both classes, got {n_pos} clicks and {n_neg} non-clicks")
    if weight is not None:
        return _weighted_auc(logits, positive, weight.astype(np.float64))
    rank_sum = float(_average_ranks(logits)[positive].sum(dtype=np.float64))
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def _weighted_auc(logits: Logits, positive: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64]) -> float:
    """Clicks of each value of the score against the non-clicks below it, and half of those beside it."""
    values, place = np.unique(logits, return_inverse=True)
    clicks = np.bincount(place, np.where(positive, weight, 0.0), len(values))
    others = np.bincount(place, np.where(positive, 0.0, weight), len(values))
    clicks, others = clicks / clicks.sum(), others / others.sum()
    return float(clicks @ (np.cumsum(others) - others / 2))


class GroupAuc(NamedTuple):
    """AUC within groups.

    Attributes:
        value: the mean over groups; None where no group has both a click and a non-click.
        groups: how many have.
    """

    value: float | None
    groups: int


def gauc(
    logits: Logits, label: npt.NDArray[Any], group: npt.NDArray[Any], weight: npt.NDArray[Any] | None = None
) -> GroupAuc:
    """Group AUC, Σ n_g AUC_g / Σ n_g over the groups with clicks and non-clicks, n_g their examples.

    As Zhou et al. (Deep Interest Network, KDD 2018) have it, weighted by impressions. With weights of examples, n_g is
    their sum, pairs count as in `auc`, and an example of weight 0 is none.

    Args:
        logits: `[N]`, any float type.
        label: `[N]`, 0 or 1.
        group: `[N]`, equal for examples of a group.
        weight: `[N]`, finite and not negative; None where all examples count alike.

    Raises:
        ValueError: a logit is NaN.
    """
    _refuse_nan(logits)
    order = np.lexsort((logits, group))
    group, logits, clicked = group[order], logits[order], label[order] == 1
    first = _starts(group)
    mass = np.ones(len(order)) if weight is None else weight[order].astype(np.float64)
    clicks, others = (np.where(own, mass, 0.0) for own in (clicked, ~clicked))
    size, pos, neg = (_sums(part, first) for part in (mass, clicks, others))
    both = (pos > 0) & (neg > 0)
    if not both.any():
        return GroupAuc(None, 0)
    if weight is not None:  # shares: a sum over all groups before this one stays as exact as this one's own
        lengths = np.diff(np.append(first, len(order)))
        clicks, others = (
            part / np.repeat(np.where(whole > 0, whole, 1.0), lengths) for part, whole in ((clicks, pos), (others, neg))
        )
    run = _starts(group, logits)  # of equal scores within a group
    ties, below = _sums(others, run), np.cumsum(others)
    below = below[np.append(run[1:], len(order)) - 1] - ties
    of_group = np.searchsorted(run, first)
    runs = np.diff(np.append(of_group, len(run)))
    won = _sums(_sums(clicks, run) * (below - np.repeat(below[of_group], runs) + ties / 2), of_group)
    value = won if weight is not None else won / np.where(both, pos * neg, 1.0)
    return GroupAuc(float(value[both] @ size[both] / size[both].sum()), int(both.sum()))


def _starts(*sorted_keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where a run of equal keys begins."""
    changes = np.zeros(len(sorted_keys[0]), dtype=np.bool_)
    changes[:1] = True
    for key in sorted_keys:
        changes[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changes)


def _sums(values: npt.NDArray[np.float64], starts: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Of the runs that begin there."""
    return np.add.reduceat(values, starts) if len(values) else values


def _refuse_nan(logits: Logits) -> None:
    if np.isnan(logits).any():
        raise ValueError(f"{int(np.isnan(logits).sum())} of {len(logits)} logits are NaN")


def rank_correlation(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float | None:
    """Spearman's: the correlation of average ranks, -1 to 1; None where one of the two is constant."""
    x, y = (ranks - ranks.mean() for ranks in (_average_ranks(a), _average_ranks(b)))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else None


def _average_ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """From 1, ties sharing their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(count) - count + (count + 1) / 2)[place]
    return ranks


def logloss(logits: Logits, label: npt.NDArray[Any], weight: npt.NDArray[Any] | None = None) -> float:
    """Mean binary cross entropy, log(1 + e^z) - y z, in float64; with weights Σ w · loss / Σ w."""
    z = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        losses = np.logaddexp(0.0, z) - label * z
    losses = np.where(np.isinf(z), np.where((z > 0) == (label == 1), 0.0, np.inf), losses)
    if weight is None:
        return float(np.mean(losses))
    share = weight.astype(np.float64)
    return float(np.where(share > 0, losses, 0.0) @ (share / share.sum()))


def logit_of(probability: Logits) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) in float64; 0 and 1 are taken for the nearest float32 to them."""
    least = float(np.finfo(np.float32).eps)
    p = np.clip(probability.astype(np.float64), least, 1 - least)
    logits: npt.NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return logits
