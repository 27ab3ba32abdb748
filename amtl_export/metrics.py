"""AUC and logloss, exact in float64, from logits; rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[Any]


def auc(logits: Logits, label: npt.NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a click outranks a non-click, ties counting half.

    Computed from average ranks (the Mann-Whitney statistic), so nothing is lost to a sigmoid's rounding.

    Args:
        logits: `[N]`, any float type.
        label: `[N]`, 0 or 1.

    Raises:
        ValueError: a logit is NaN, or there is only one class.
    """
    if np.isnan(logits).any():
        raise ValueError(f"{int(np.isnan(logits).sum())} of {len(logits)} logits are NaN")
    positive = label == 1
    n_pos = int(positive.sum())
    n_neg = len(label) - n_pos
    if n_pos == 0 or n_neg == 0:
        raise ValueError(f"AUC needs both classes, got {n_pos} clicks and {n_neg} non-clicks")
    rank_sum = float(_average_ranks(logits)[positive].sum(dtype=np.float64))
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


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


def logloss(logits: Logits, label: npt.NDArray[Any]) -> float:
    """Mean binary cross entropy, log(1 + e^z) - y z, in float64."""
    z = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - label * z))


def logit_of(probability: Logits) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) in float64; 0 and 1 are taken for the nearest float32 to them."""
    least = float(np.finfo(np.float32).eps)
    p = np.clip(probability.astype(np.float64), least, 1 - least)
    logits: npt.NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return logits
