"""Scores of a split: PyTorch with its selection network against the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.inputs import Feed, as_request, from_rows
from amtl_export.data.encode import Rows
from amtl_export.graph.inputs import Input
from amtl_export.models.config import ModelConfig
from amtl_export.runtime.session import Provider
from amtl_export.training.metrics import auc, logloss

_BATCH = 8192


@dataclass(frozen=True)
class Scores:
    """Logits of one split and what they are worth."""

    logits: npt.NDArray[np.float32]
    auc: float
    logloss: float

    @classmethod
    def of(cls, logits: npt.NDArray[np.float32], rows: Rows) -> Scores:
        """From logits and labels; NaN logits have no AUC."""
        if np.isnan(logits).any():
            return cls(logits, float("nan"), float("nan"))
        label = np.asarray(rows.label)
        return cls(logits, auc(logits, label), logloss(logits, label))


def graph_scores(bundle: Bundle, rows: Rows, config: ModelConfig, provider: Provider, *, optimized: bool) -> Scores:
    """What the graph answers for a split: optimised and with native operators, or neither; on CUDA always with them.

    Where fields are the request's, rows that agree in them are the candidates of one.
    """
    session = bundle.session(
        provider=provider, optimized=optimized, native=None if optimized or provider == "cuda" else False
    )
    logits = np.empty(len(rows), dtype=np.float32)
    feed = from_rows(rows, config)
    for positions in _requests(feed, bundle.inputs):
        candidates = {name: values[positions] for name, values in feed.items()}
        logits[positions] = session.run(["logit"], as_request(candidates, bundle.inputs))[0]
    return Scores.of(logits, rows)


def _requests(feed: Feed, inputs: Sequence[Input]) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of the rows of each request, at most `_BATCH` at a time."""
    count = len(next(iter(feed.values())))
    shared = [feed[spec.source][:, list(spec.columns) or slice(None)] for spec in inputs if spec.request]
    if shared:
        keys = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in shared], axis=1)
        order = np.lexsort(keys.T)
        bounds = np.flatnonzero((keys[order][1:] != keys[order][:-1]).any(axis=1)) + 1
        groups = np.split(order, bounds)
    else:
        groups = [np.arange(count)]
    for group in groups:
        yield from np.split(group, range(_BATCH, len(group), _BATCH))


def rank_flips(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """Neighbours in the ranking by `a` that `b` ranks the other way round.

    Args:
        a: `[N]` logits.
        b: `[N]` logits of the same examples.
    """
    order = np.argsort(a, kind="stable")
    return int(((np.diff(a[order]) > 0) & (np.diff(b[order]) < 0)).sum())
