"""Load as MLPerf's LoadGen makes it: one request after the other, all at once, or at random times as traffic comes.

LoadGen times a request from when it was scheduled, so a server that falls behind does not slow down what comes next.
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amtl_export.errors import EnvironmentLacks, ValidationFailed
from amtl_export.spec import Feed

Scenario = Literal["single-stream", "offline", "server"]
Scores = np.ndarray[Any, np.dtype[np.float32]]

#: From inputs to probabilities `[batch]`.
Answer = Callable[[Feed], Scores]

#: LoadGen's own names.
_SCENARIOS = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}

#: Scores may differ so much where the server puts requests together: float32 roundings of another matrix product.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Request:
    """A request, and what the answer must be.

    Attributes:
        feed: as the graph takes it.
        probability: float32 `[batch]`.
    """

    feed: Feed
    probability: Scores


@dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    Attributes:
        scenario: of LoadGen.
        target_qps: requests a second that were scheduled; None where the scenario schedules none.
        qps: requests that were answered a second.
        p50_ms: median latency from the scheduled time, milliseconds; the other percentiles likewise.
        requests: how many.
    """

    scenario: Scenario
    target_qps: float | None
    qps: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    requests: int


def loadgen() -> Any:
    """The module `mlperf_loadgen`.

    Raises:
        EnvironmentLacks: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise EnvironmentLacks("MLPerf LoadGen is not installed", fix="pip install 'amtl-export[serve]'") from None
    return mlperf_loadgen


def drive(
    make_answer: Callable[[], Answer],
    requests: Sequence[Request],
    scenario: Scenario,
    *,
    workers: int,
    seconds: float,
    qps: float | None = None,
) -> LoadResult:
    """Let LoadGen ask for `seconds`.

    Args:
        make_answer: called by each worker for a function of its own from inputs to probabilities.
        requests: replayed in LoadGen's random order.
        scenario: `single-stream` asks when the last answer is there, `offline` everything at once, `server` at
            exponentially distributed intervals.
        workers: threads that wait for answers.
        seconds: at least; `offline` asks as much as `qps` lets expect.
        qps: requests a second; `server` needs it.

    Raises:
        ValidationFailed: an answer was wrong, or a request failed.
        EnvironmentLacks: LoadGen is not installed.
    """
    lg = loadgen()
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, _SCENARIOS[scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 1
    if scenario == "server":
        assert qps is not None
        settings.server_target_qps = qps
        settings.server_target_latency_ns = 10**10
    elif scenario == "offline":
        settings.offline_expected_qps = qps or 1000.0
    with tempfile.TemporaryDirectory() as folder, _Workers(make_answer, requests, workers) as pool:
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        sut = lg.ConstructSUT(pool.issue, lambda: None)
        library = lg.ConstructQSL(len(requests), len(requests), lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(sut, library, settings, logs)
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)
        pool.check()
        log = _results(Path(folder) / "mlperf_log_detail.txt")
    return _load_result(scenario, log, qps, pool.completed)


class _Workers:
    """Threads that answer LoadGen's queries; issuing one only enqueues it."""

    def __init__(self, make_answer: Callable[[], Answer], requests: Sequence[Request], count: int) -> None:
        self._lg = loadgen()
        self._requests = requests
        self._make_answer = make_answer
        self._samples: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._problem: str | None = None
        self._counts = [0] * count
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(count)]

    def __enter__(self) -> _Workers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._samples.put(None)
        for thread in self._threads:
            thread.join()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's `issue_query`."""
        for sample in samples:
            self._samples.put((sample.id, sample.index))

    @property
    def completed(self) -> int:
        """Requests."""
        return sum(self._counts)

    def check(self) -> None:
        """Raise what went wrong."""
        if self._problem:
            raise ValidationFailed("a request was answered wrongly under load", found=self._problem)

    def _work(self, worker: int) -> None:
        answer: Answer | None = None
        while (sample := self._samples.get()) is not None:
            number, index = sample
            request = self._requests[index]
            try:
                answer = answer or self._make_answer()
                scores = answer(request.feed)
                if not np.allclose(scores, request.probability, rtol=0, atol=TOLERANCE):
                    self._problem = f"request {index}: off by {float(np.abs(scores - request.probability).max()):.3g}"
            except Exception as error:  # whatever a client raises; LoadGen waits for an answer to every request
                self._problem = f"request {index}: {error}"
            self._counts[worker] += 1
            self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(number, 0, 0)])


def _results(log: Path) -> dict[str, Any]:
    """Key → value of LoadGen's detailed log."""
    prefix = ":::MLLOG "
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith(prefix)]
    entries = [json.loads(line.removeprefix(prefix)) for line in lines]
    return {entry["key"]: entry["value"] for entry in entries}


def _load_result(scenario: Scenario, log: dict[str, Any], qps: float | None, requests: int) -> LoadResult:
    milliseconds = {p: float(log[f"result_{p}.00_percentile_latency_ns"]) / 1e6 for p in (50, 90, 99)}
    keys = {
        "server": "result_completed_samples_per_sec",
        "offline": "result_samples_per_second",
        "single-stream": "result_qps_with_loadgen_overhead",
    }
    return LoadResult(
        scenario,
        qps if scenario == "server" else None,
        float(log[keys[scenario]]),
        milliseconds[50],
        milliseconds[90],
        milliseconds[99],
        requests,
    )
