"""Scores of labelled examples in PyTorch, and what scores are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.metrics import auc, logit_of, logloss
from amtl_export.spec import Feed

Floats = npt.NDArray[np.float64]
#: Scores and labels, `[N]` each.
Scored = tuple[npt.NDArray[Any], Floats]


ScoreKind = Literal["logit", "probability"]


@dataclass(frozen=True)
class Scores:
    """Scores of one split and what they are worth.

    Attributes:
        values: `[N]`.
        labels: `[N]`.
        kind: what the values are, for the logloss.
        auc: NaN where a score is NaN, or all labels are alike; logloss likewise.
    """

    values: npt.NDArray[Any]
    labels: Floats
    kind: ScoreKind
    auc: float
    logloss: float

    @classmethod
    def of(cls, scored: Scored, kind: ScoreKind | None = None) -> Scores:
        """What scores are worth.

        Args:
            scored: scores and labels.
            kind: what the scores are; None takes them for probabilities where all are within [0, 1].
        """
        values, labels = scored
        if kind is None:
            kind = "probability" if len(values) and 0 <= values.min() <= values.max() <= 1 else "logit"
        if np.isnan(values).any() or len(np.unique(labels)) < 2:
            return cls(values, labels, kind, float("nan"), float("nan"))
        logits = values if kind == "logit" else logit_of(values)
        return cls(values, labels, kind, auc(values, labels), logloss(logits, labels))

    def resolution(self, difference: float) -> float:
        """The most that the AUC can change when every score moves by at most `difference`.

        Only a click and a non-click whose scores are within twice that can change places; a pair is worth 1 / (P·N).
        """
        clicks, others = (np.sort(self.values[self.labels == label].astype(np.float64)) for label in (1, 0))
        near = np.searchsorted(others, clicks + 2 * difference, side="right") - np.searchsorted(
            others, clicks - 2 * difference, side="left"
        )
        return float(near.sum() / max(1, len(clicks) * len(others)))


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

    def scored(feed: Feed) -> npt.NDArray[Any]:
        try:
            return answer(feed)[frozen.score]
        except Exception as error:  # whatever the user's forward raises
            raise InputError("the model fails on a labelled batch", found=f"{type(error).__name__}: {error}") from error

    return gathered((scored(feed), labels) for feed, labels in labelled(frozen, split))


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
