"""Names of what a run's model gives: a logit and a probability for each label."""

from __future__ import annotations

from collections.abc import Sequence


def logit_names(labels: Sequence[str]) -> tuple[str, ...]:
    """`logit`, or `logit_LABEL` for each of several labels.

    Args:
        labels: names of several; none stands for the only one.
    """
    return tuple(f"logit_{name}" for name in labels) or ("logit",)


def output_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Logit and probability of each label, one after the other.

    Args:
        labels: names of several; none stands for the only one.
    """
    return tuple(name for logit in logit_names(labels) for name in (logit, probability_of(logit)))


def probability_of(logit: str) -> str:
    """`logit_buy` → `probability_buy`."""
    return "probability" + logit.removeprefix("logit")
