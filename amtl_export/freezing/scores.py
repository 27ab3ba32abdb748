"""Scores of labelled examples in PyTorch, and what scores are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.metrics import auc, logloss
from amtl_export.spec import Feed

Floats = npt.NDArray[np.float64]
#: Scores and labels, `[N]` each.
Scored = tuple[npt.NDArray[Any], Floats]


@dataclass(frozen=True)
class Scores:
    """Scores of one split and what they are worth."""

    logits: npt.NDArray[Any]
    auc: float
    logloss: float

    @classmethod
    def of(cls, scored: Scored) -> Scores:
        """From scores and labels; NaN scores, or labels of one kind alone, have no AUC."""
        logits, labels = scored
        if np.isnan(logits).any() or len(np.unique(labels)) < 2:
            return cls(logits, float("nan"), float("nan"))
        return cls(logits, auc(logits, labels), logloss(logits, labels))


def labelled(frozen: FrozenModel, split: str) -> Iterator[tuple[Feed, Floats]]:
    """The labelled examples of a split.

    Raises:
        InputError: there are none.
    """
    if frozen.labelled is None:
        raise InputError(
            "the model comes without labelled examples", found=frozen.origin["run"], fix="Source(…, batches=…)"
        )
    return frozen.labelled(split)


def torch_answers(frozen: FrozenModel, split: str, *, trained: bool) -> Scored:
    """What PyTorch answers: the model as it was given, or the frozen one."""
    answer = frozen.trained_answers if trained else frozen.answers
    return gathered((answer(feed)[frozen.score], labels) for feed, labels in labelled(frozen, split))


def gathered(parts: Iterator[tuple[npt.NDArray[Any], Floats]]) -> Scored:
    """Scores and labels of all batches, one of each for every example.

    Raises:
        InputError: another number of labels.
    """
    scores, labels = zip(*((np.ravel(score), label) for score, label in parts), strict=True)
    joined, known = np.concatenate(scores), np.concatenate(labels)
    if joined.shape != known.shape:
        raise InputError("labels do not fit the scores", found=known.shape, allowed=joined.shape, fix="one for each")
    return joined, known
