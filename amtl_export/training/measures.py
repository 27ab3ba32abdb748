"""What a run says of itself: loss of a batch, metrics of a split, and notes on settings that cannot do much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from amtl_export.data.encode import Rows
from amtl_export.data.numeric_stats import NumericStats
from amtl_export.metrics import auc, gauc, logloss
from amtl_export.models.ctr import BOUND
from amtl_export.training.batches import Batch
from amtl_export.training.config import TrainConfig

#: An epoch of so few steps is worth a note; the batch that the note names makes about `_ENOUGH` of them.
_FEW, _ENOUGH = 2, 16


def batch_loss(logit: Tensor, batch: Batch) -> Tensor:
    """Mean binary cross entropy, log(1 + e^z) - y z; with weights Σ w · loss / Σ w over the batch.

    Of several labels, the mean over them.

    Args:
        logit: float32 `[B]` or `[B, T]`, as the batch's label.
        batch: labels, and weights if there are any. A batch whose weights are all 0 has the loss 0, and one of no rows.
    """
    if not len(logit):  # a mean would be NaN
        return logit.sum()
    if batch.share is None:
        return F.binary_cross_entropy_with_logits(logit, batch.label)
    losses = F.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")
    return (batch.share * (losses if losses.ndim == 1 else losses.mean(dim=1))).sum()


def mass(rows: Rows, index: npt.NDArray[np.int64] | None = None) -> float:
    """What some rows, or all, count in a mean: the sum of their weights, or how many they are."""
    if rows.weight is None:
        return len(rows) if index is None else len(index)
    return float((rows.weight if index is None else rows.weight[index]).sum(dtype=np.float64))


def measured(logits: npt.NDArray[Any], rows: Rows, split: str, labels: Sequence[str] = ()) -> dict[str, Any]:
    """`auc_SPLIT` and `logloss_SPLIT`, weighted if the rows are; of data with groups `gauc_SPLIT`, which is None where
    no group has both a click and a non-click, and `gauc_groups_SPLIT`, how many have.

    Of several labels the first one's, and each one's in `labels`.

    Args:
        logits: `[N, T]` of the rows.
        rows: N, labelled.
        split: their name.
        labels: T names, or none.
    """
    found = [_measured(logits[:, i], rows.labels[:, i], rows, split) for i in range(logits.shape[1])]
    return found[0] | ({"labels": dict(zip(labels, found, strict=True))} if labels else {})


def mean_auc(logits: npt.NDArray[Any], rows: Rows) -> float:
    """Mean AUC over labels: what epochs are compared by.

    Args:
        logits: `[N, T]` of the rows.
        rows: N, labelled.
    """
    return float(np.mean([auc(logits[:, i], rows.labels[:, i], rows.weight) for i in range(logits.shape[1])]))


def _measured(logits: npt.NDArray[Any], label: npt.NDArray[Any], rows: Rows, split: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"auc_{split}": auc(logits, label, rows.weight),
        f"logloss_{split}": logloss(logits, label, rows.weight),
    }
    if rows.group is not None:
        own = gauc(logits, label, rows.group, rows.weight)
        found |= {f"gauc_{split}": own.value, f"gauc_groups_{split}": own.groups}
    return found


def notes(config: TrainConfig, rows: Rows, stats: Mapping[str, NumericStats]) -> list[str]:
    """What should be said of a training before it begins.

    Args:
        config: its settings.
        rows: that train.
        stats: numeric field → what its numbers in these rows are.
    """
    return [*_of_steps(config, rows), *_of_numbers(stats)]


def _of_numbers(stats: Mapping[str, NumericStats]) -> Iterator[str]:
    """Numeric fields of one value, or with numbers so far out that they count as others do."""
    for name, own in stats.items():
        furthest = max(own.most - own.mean, own.mean - own.least) / own.std
        if own.least == own.most:
            yield f"numeric field {name} is constant in training: it says nothing"
        elif furthest > BOUND:
            yield (
                f"numeric field {name} has numbers {furthest:,.0f} deviations from the mean; all beyond {BOUND:.0f} "
                'count alike; transform = "log1p" in the schema, or filter, brings them nearer'
            )


def _of_steps(config: TrainConfig, rows: Rows) -> list[str]:
    steps = -(-len(rows) // config.batch_size)
    if steps > _FEW or config.batch_size == 1 or config.epochs == 0:
        return []
    size = 1 << max(0, (len(rows) // _ENOUGH).bit_length() - 1)
    better = -(-len(rows) // size)
    fix = f"batch_size={size} makes {better}" if better > steps else "more rows make more"
    return [
        f"{len(rows):,} training rows are {steps} step{'s' * (steps > 1)} an epoch at batch_size={config.batch_size}, "
        f"from which a model hardly learns; {fix}"
    ]
