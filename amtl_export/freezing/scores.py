"""Scores of labelled examples in PyTorch, and what scores are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.labelled import Beside
from amtl_export.freezing.reads import why_it_fails
from amtl_export.metrics import auc, gauc, logit_of, logloss
from amtl_export.source.source import Labels
from amtl_export.spec import Feed

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


class Scored(NamedTuple):
    """Scores and labels, `[N]` each, and what judges them beside labels."""

    values: Array
    labels: Floats
    beside: Beside = Beside()


ScoreKind = Literal["logit", "probability"]


@dataclass(frozen=True)
class Scores:
    """Scores of one split and what they are worth.

    Attributes:
        scored: scores and labels, groups and weights.
        kind: what the values are, for the logloss.
        auc: NaN where a score is NaN, or all labels are alike; logloss likewise.
        gauc: group AUC; NaN also where there are no groups, or none with both a click and a non-click.
        gauc_groups: how many have both.
    """

    scored: Scored
    kind: ScoreKind
    auc: float = float("nan")
    logloss: float = float("nan")
    gauc: float = float("nan")
    gauc_groups: int = 0

    @property
    def values(self) -> Array:
        """`[N]`."""
        return self.scored.values

    @classmethod
    def of(cls, scored: Scored, kind: ScoreKind | None = None) -> Scores:
        """What scores are worth.

        Args:
            scored: scores and labels.
            kind: what the scores are; None takes them for probabilities where all are within [0, 1].
        """
        values, labels, beside = scored
        if kind is None:
            kind = "probability" if len(values) and 0 <= values.min() <= values.max() <= 1 else "logit"
        counted = labels if beside.weight is None else labels[beside.weight > 0]
        if np.isnan(values).any() or len(np.unique(counted)) < 2:
            return cls(scored, kind)
        logits = values if kind == "logit" else logit_of(values)
        worth, grouped, groups = _worth(scored)
        return cls(scored, kind, worth, logloss(logits, labels, beside.weight), grouped, groups)

    def reach(self, moved: Array, most: Array) -> Reach:
        """How far AUC and GAUC can be from these scores' when score i moves by at most d_i.

        Both rise with the score of a click and fall with that of a non-click. So they are least where every click
        moves down and every non-click up, and largest the other way round. Scores that are far apart, seen from d,
        cannot change places; where few pairs there are, one that can is worth much.

        Args:
            moved: `[N]`, the scores after the move; d_i is at most what score i has moved.
            most: `[N]`, and at most this.
        """
        labels, beside = self.scored.labels, self.scored.beside
        wide = self.values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where(wide == moved, 0.0, np.abs(wide - moved))
        towards = np.where(labels == 1, 1, -1) * np.fmin(apart, most)
        low, high = (_worth(Scored(wide + sign * towards, labels, beside)) for sign in (-1, 1))
        return Reach((self.auc - low[0], self.gauc - low[1]), (high[0] - self.auc, high[1] - self.gauc))


class Reach(NamedTuple):
    """What AUC and GAUC can lose, and gain; none is negative, and those of a GAUC that is none are NaN."""

    losses: tuple[float, float]
    gains: tuple[float, float]


def _worth(scored: Scored) -> tuple[float, float, int]:
    """AUC, GAUC and its groups, of scores that are numbers and labels of both kinds."""
    values, labels, beside = scored
    whole = auc(values, labels, beside.weight)
    if beside.group is None:
        return whole, float("nan"), 0
    own = gauc(values, labels, beside.group, beside.weight)
    return whole, float("nan") if own.value is None else own.value, own.groups


def labelled(frozen: FrozenModel, split: str) -> Iterator[tuple[Feed, Labels]]:
    """The labelled examples of a split.

    Raises:
        InputError: there are none.
    """
    if frozen.labelled is None:
        raise InputError(
            "the model comes without labelled examples", found=frozen.origin["run"], fix="Source(…, batches=…)"
        )
    return frozen.labelled(split)


def torch_answers(frozen: FrozenModel, split: str, *, trained: bool) -> dict[str, Scored]:
    """What PyTorch answers, by output that labels judge: the model as it was given, or the frozen one."""
    pairs = ((answered(frozen, feed, trained=trained), labels) for feed, labels in labelled(frozen, split))
    return gathered(pairs, frozen, split)


def answered(frozen: FrozenModel, feed: Feed, *, trained: bool) -> Feed:
    """What PyTorch answers to one batch, with labels or without.

    Raises:
        InputError: the model fails.
    """
    answer = frozen.trained_answers if trained else frozen.answers
    try:
        return answer(feed)
    except Exception as error:  # whatever the user's forward raises
        found = why_it_fails(error, (frozen.trained or frozen.module).model, lambda: answer(feed))
        raise InputError("the model fails on a batch", found=found) from error


def torch_auc(frozen: FrozenModel, split: str, *, trained: bool) -> dict[str, float]:
    """AUC in PyTorch, by output that labels judge: of the model as it was given, or of the frozen one."""
    answers = torch_answers(frozen, split, trained=trained)
    return {name: Scores.of(scored).auc for name, scored in answers.items()}


def numbers(answer: Array) -> Array:
    """Scores `[N]` that can be subtracted, as truth values and unsigned numbers cannot."""
    flat = np.ravel(answer)
    return flat if flat.dtype.kind == "f" else flat.astype(np.float64)


def gathered(parts: Iterator[tuple[Feed, Labels]], frozen: FrozenModel, split: str) -> dict[str, Scored]:
    """Scores and labels of all batches of a split, one of each for every example, by output.

    Raises:
        InputError: another number of labels.
    """
    kept = [({name: numbers(answers[name]) for name in frozen.scores}, labels) for answers, labels in parts]
    beside = Beside() if frozen.beside is None else frozen.beside(split)
    found = {}
    for name in frozen.scores:
        values = np.concatenate([answers[name] for answers, _ in kept])
        known = np.concatenate([labels[name] for _, labels in kept])
        if values.shape != known.shape:
            raise InputError(
                "labels do not fit the scores", where=name, found=known.shape, allowed=values.shape, fix="one for each"
            )
        found[name] = Scored(values, known, beside)
    return found
