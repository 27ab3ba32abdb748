"""Interleaved timing: every round runs every subject once, on the same inputs, in an order drawn anew.

Each timed run follows an untimed one of the same subject on other inputs: its code and weights are as
warm as in a server that does nothing else, the rows that it looks up are not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from amtl_export.spec import Feed


class Subject(Protocol):
    """Something that answers requests.

    Attributes:
        name: in tables and JSON.
        bytes: of its weights.
    """

    name: str
    bytes: int

    def prepare(self, feed: Feed) -> Any:
        """Inputs in the subject's own form; not timed."""

    def run(self, prepared: Any) -> Any:
        """Answer; timed."""


@dataclass(frozen=True)
class Latency:
    """Latencies of one subject.

    Attributes:
        p50_us: median, microseconds; the other percentiles likewise.
        runs: how many were timed.
        qps: answered rows a second at the median, one request after another.
    """

    p50_us: float
    p95_us: float
    p99_us: float
    mean_us: float
    runs: int
    qps: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int], batch: int) -> Latency:
        """From single times."""
        us: npt.NDArray[np.float64] = np.asarray(nanoseconds, dtype=np.float64) / 1e3
        p50, p95, p99 = (float(v) for v in np.percentile(us, (50, 95, 99)))
        return cls(p50, p95, p99, float(us.mean()), len(us), batch / p50 * 1e6)


def interleave(
    subjects: Sequence[Subject],
    feeds: Sequence[Feed],
    *,
    seconds: float,
    min_rounds: int = 20,
    max_rounds: int = 5000,
) -> dict[str, list[int]]:
    """Time subjects against each other.

    Args:
        subjects: who runs.
        feeds: inputs, taken in turn; together larger than the caches.
        seconds: stop after this time, once `min_rounds` are done.
        min_rounds: at least this many timed runs of each subject.
        max_rounds: at most this many.

    Returns:
        Subject name → nanoseconds of each run.
    """
    prepared = {subject.name: [subject.prepare(feed) for feed in feeds] for subject in subjects}
    times: dict[str, list[int]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        for inputs in prepared[subject.name][:5]:
            subject.run(inputs)
    deadline = time.perf_counter() + seconds
    order = np.random.default_rng(0)
    for number in range(max_rounds):
        for position in order.permutation(len(subjects)):
            subject = subjects[position]
            inputs = prepared[subject.name][number % len(feeds)]
            subject.run(prepared[subject.name][(number + len(feeds) // 2) % len(feeds)])
            started = time.perf_counter_ns()
            subject.run(inputs)
            times[subject.name].append(time.perf_counter_ns() - started)
        if number + 1 >= min_rounds and time.perf_counter() > deadline:
            break
    return times
