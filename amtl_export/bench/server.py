"""`bench server`: how many requests a second a bundle answers within a latency, in this process or behind a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from amtl_export.bench.infer import check_same, traffic_of
from amtl_export.bench.load import Answer, LoadResult, Request, Scores, drive
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.process import sampled, watched
from amtl_export.bundle.answers import check_answers
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.errors import EnvironmentLacks
from amtl_export.freezing.frozen import freeze
from amtl_export.graph.inputs import as_request, one_request
from amtl_export.runtime.predictor import load
from amtl_export.spec import Feed
from amtl_export.stages import stage

#: Of the highest rate, what a soak asks.
SOAK = 0.8

#: Rates that are tried for the highest one that holds the latency.
_STEPS = 6


@dataclass(frozen=True)
class ServerBenchConfig:
    """The loads, and what they must hold.

    Attributes:
        batch: rows of a request.
        slo_ms: p99 that must hold, milliseconds from the scheduled time.
        qps: requests a second that must hold it; None looks for the highest.
        seconds: of each load.
        workers: that wait for answers at the same time.
        threads: of ONNX Runtime in this process.
        url: of a Triton server, `host:port`; None answers in this process.
        model: its name there.
        protocol: of the server.
        pid: of the server, to watch its memory and processors; None where it runs elsewhere.
        soak_seconds: of a last load, at `SOAK` of the highest rate, under which memory is sampled; 0 for none.
    """

    batch: int = 64
    slo_ms: float = 10.0
    qps: float | None = None
    seconds: float = 5.0
    workers: int = 4
    threads: int = 1
    url: str | None = None
    model: str = "ctr"
    protocol: Literal["http", "grpc"] = "grpc"
    pid: int | None = None
    soak_seconds: float = 0.0


class _Target(Protocol):
    def answer(self) -> Answer:
        """A function for one worker."""


class _InProcess:
    """The bundle in this process."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._predictor, self._output = load(bundle.path, threads=threads), bundle.signature.answer

    def answer(self) -> Answer:
        """The same predictor for all workers."""
        return lambda feed: self._predictor.predict(feed, [self._output])[self._output]


class Triton:
    """A model of a Triton server; each worker has a connection of its own."""

    def __init__(self, url: str, model: str, protocol: str, output: str = "probability") -> None:
        self._url, self._model, self._output = url, model, output
        self._client = _client(protocol)

    def answer(self) -> Answer:
        """A connection."""
        connection = self._client.InferenceServerClient(self._url)
        wanted = [self._client.InferRequestedOutput(self._output)]

        def ask(feed: Feed) -> Scores:
            found = connection.infer(self._model, [self._tensor(name, a) for name, a in feed.items()], outputs=wanted)
            scores: Scores = found.as_numpy(self._output).reshape(-1)
            return scores

        return ask

    def _tensor(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        tensor = self._client.InferInput(name, array.shape, {"i": "INT64", "f": "FP32"}[array.dtype.kind])
        tensor.set_data_from_numpy(array)
        return tensor


def _client(protocol: str) -> Any:
    try:
        import tritonclient.grpc
        import tritonclient.http
    except ImportError:
        raise EnvironmentLacks("tritonclient is not installed", fix="pip install 'amtl-export[serve]'") from None
    return tritonclient.grpc if protocol == "grpc" else tritonclient.http


def bench_server(
    bundle: Path | str,
    source: Any,
    config: ServerBenchConfig | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask one after the other, all at once, and as traffic comes; every answer is checked.

    Args:
        bundle: in this process, or what the server serves.
        source: the model that it came from, as `freeze` takes it, whose test rows are replayed.
        config: the loads.
        note: is told of each finished load.

    Returns:
        `date machine bundle settings cases[…] max_qps met`, and `soak` where one was asked for and a rate was found,
        with the memory of the process that answers and its `slope_bytes_per_minute`.

    Raises:
        InputError: the bundle fails on its own sample, bundle and run do not belong together, or the server does not
            answer.
        ValidationFailed: an answer was wrong; the bundle answers its sample otherwise than when it was exported.
        EnvironmentLacks: LoadGen, the client or psutil is missing.
    """
    config = config or ServerBenchConfig()
    opened, requests = _requests(Path(bundle), source, config.batch)
    target: _Target = (
        Triton(config.url, config.model, config.protocol, opened.signature.answer)
        if config.url
        else _InProcess(opened, config.threads)
    )
    pid = config.pid if config.url else os.getpid()
    cases: list[dict[str, Any]] = []

    def measured(scenario: Any, qps: float | None = None) -> LoadResult:
        stage(scenario if qps is None else f"{scenario}, {qps:,.0f} requests/s")
        with watched(pid) as used:
            result = drive(target.answer, requests, scenario, workers=config.workers, seconds=config.seconds, qps=qps)
        cases.append(asdict(result) | used)
        note(f"{scenario}: {result.qps:,.0f} requests/s, p99 {result.p99_ms:.2f} ms")
        return result

    alone = measured("single-stream")
    together = measured("offline", alone.qps * 2)
    best = highest_rate(lambda qps: measured("server", qps), config.slo_ms, together.qps, config.qps)
    soak = {}
    if best is not None and config.soak_seconds:
        stage(f"soak, {SOAK * best:,.0f} requests/s for {config.soak_seconds:,.0f} s")
        soak = {"soak": soaked(target.answer, requests, config, pid, SOAK * best)}
        note(f"soak: {soak['soak']['requests']:,} requests, p99 {soak['soak']['p99_ms']:.2f} ms")
    return {
        "date": today(),
        "machine": describe_machine(),
        "bundle": Path(bundle).name,
        "settings": asdict(config),
        "cases": cases,
        "max_qps": best,
        "met": best is not None and (config.qps is None or best >= config.qps),
        **soak,
    }


def highest_rate(
    ask: Callable[[float], LoadResult], slo_ms: float, limit: float, stated: float | None = None
) -> float | None:
    """The stated rate if it holds a p99; without one the highest of those tried that does, by bisection.

    Args:
        ask: asks at a rate, requests a second.
        slo_ms: p99 that must hold, milliseconds.
        limit: no higher rate is tried.
        stated: the one rate to try.
    """
    if stated is not None:
        return stated if ask(stated).p99_ms <= slo_ms else None
    low, high, best = 0.0, limit, None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if ask(middle).p99_ms <= slo_ms:
            low = best = middle
        else:
            high = middle
    return best


def soaked(
    make_answer: Callable[[], Answer], requests: list[Request], config: ServerBenchConfig, pid: int | None, qps: float
) -> dict[str, Any]:
    """A long load: what `LoadResult` has, and the answering process's memory every hundredth of the time.

    Raises:
        ValidationFailed: an answer was wrong, or a request failed.
    """
    with sampled(pid, max(config.soak_seconds / 100, 0.05)) as samples:
        result = drive(make_answer, requests, "server", workers=config.workers, seconds=config.soak_seconds, qps=qps)
    memory = {"slope_bytes_per_minute": samples.slope, **asdict(samples)} if samples.seconds else {}
    return {**asdict(result), **memory}


def _requests(bundle: Path, source: Any, batch: int) -> tuple[Bundle, list[Request]]:
    opened = open_bundle(bundle)
    check_answers(opened.path)
    frozen = freeze(source)
    check_same(opened, frozen)
    feeds = traffic_of(opened, frozen).feeds(batch, "replay", 0)
    predictor, score = load(bundle), opened.signature.answer
    graph_feeds = [as_request(one_request(feed, opened.inputs), opened.inputs) for feed in feeds]
    return opened, [Request(feed, predictor.predict(feed, [score])[score]) for feed in graph_feeds]
