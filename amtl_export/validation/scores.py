"""Scores of labelled examples from the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.bundle.bundle import Bundle
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import Scored, gathered, labelled
from amtl_export.graph.inputs import as_request
from amtl_export.runtime.session import Provider, run
from amtl_export.spec import Feed, TensorSpec, rows_of


def graph_answers(
    bundle: Bundle, frozen: FrozenModel, split: str, provider: Provider, *, optimized: bool
) -> dict[str, Scored]:
    """What the graph answers, by output that labels judge.

    Optimised and with native operators, or neither; on CUDA always with them.
    Where fields are given once per request, examples that agree in them are the candidates of one.

    Raises:
        InputError: the graph fails on a request.
    """
    native = None if optimized or provider == "cuda" else False
    session = bundle.session(provider=provider, optimized=optimized, native=native)
    parts = ((_answered(session, feed, bundle, frozen), labels) for feed, labels in labelled(frozen, split))
    return gathered(parts, frozen, split)


def _answered(session: Any, feed: Feed, bundle: Bundle, frozen: FrozenModel) -> Feed:
    names = list(frozen.scores)
    requests = list(_requests(feed, bundle.inputs, frozen.inputs))
    if len(requests) == 1:
        answers = run(session, names, as_request(feed, bundle.inputs), where=bundle.path)
        return {name: np.asarray(answer) for name, answer in answers.items()}
    scores = {name: np.empty(sum(map(len, requests)), dtype=np.float32) for name in names}
    for rows in requests:
        request = as_request(rows_of(feed, frozen.inputs, rows), bundle.inputs)
        for name, answer in run(session, names, request, where=bundle.path).items():
            scores[name][rows] = answer
    return scores


def _requests(feed: Feed, inputs: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of each request."""
    count = next((len(feed[spec.name]) for spec in own if spec.batched), 1)
    shared = [feed[s.source][:, list(s.positions)] if s.positions else feed[s.source] for s in inputs if s.shared]
    if not shared:
        yield np.arange(count)
        return
    keys = np.concatenate([np.ascontiguousarray(part).reshape(count, -1).view(np.uint8) for part in shared], axis=1)
    order = np.lexsort(keys.T)
    starts = np.flatnonzero((keys[order][1:] != keys[order][:-1]).any(axis=1)) + 1
    yield from np.split(order, starts)


def rank_flips(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """Neighbours in the ranking by `a` that `b` ranks the other way round.

    Args:
        a: `[N]` scores.
        b: `[N]` scores of the same examples.
    """
    order = np.argsort(a, kind="stable")
    with np.errstate(invalid="ignore"):
        return int(((np.diff(a[order]) > 0) & (np.diff(b[order]) < 0)).sum())
