"""`bench server`: how many requests a second a bundle answers within a latency, in this process or behind a server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from amtl_export.bench.infer import make_feeds
from amtl_export.bench.load import Answer, Answered, Request, Scores, drive
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.inputs import Feed, as_request, one_request
from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.runtime.predictor import load
from amtl_export.training.run import load_run

#: Rates that are tried for the highest one that holds the latency.
_STEPS = 6


@dataclass(frozen=True)
class ServerBenchConfig:
    """What is asked.

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


class _Target(Protocol):
    def answer(self) -> Answer:
        """A function for one worker."""


class _InProcess:
    """The bundle in this process."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._predictor = load(bundle.path, threads=threads)

    def answer(self) -> Answer:
        """The same predictor for all workers."""
        return lambda feed: self._predictor.predict(feed, ["probability"])["probability"]


class _Triton:
    """A model of a Triton server; each worker has a connection of its own."""

    def __init__(self, url: str, model: str, protocol: str) -> None:
        self._url, self._model = url, model
        self._client = _client(protocol)

    def answer(self) -> Answer:
        """A connection."""
        own = self._client.InferenceServerClient(self._url)
        wanted = [self._client.InferRequestedOutput("probability")]

        def ask(feed: Feed) -> Scores:
            found = own.infer(self._model, [self._tensor(name, a) for name, a in feed.items()], outputs=wanted)
            probability: Scores = found.as_numpy("probability").reshape(-1)
            return probability

        return ask

    def _tensor(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        made = self._client.InferInput(name, array.shape, {"i": "INT64", "f": "FP32"}[array.dtype.kind])
        made.set_data_from_numpy(array)
        return made


def _client(protocol: str) -> Any:
    try:
        import tritonclient.grpc
        import tritonclient.http
    except ImportError:
        raise EnvironmentLacks("tritonclient is not installed", fix="pip install 'amtl-export[serve]'") from None
    return tritonclient.grpc if protocol == "grpc" else tritonclient.http


def bench_server(
    bundle: Path, run: Path, config: ServerBenchConfig | None = None, *, note: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Ask one after the other, all at once, and as traffic comes; every answer is checked.

    Args:
        bundle: in this process, or what the server serves.
        run: the run that it came from, whose test rows are replayed.
        config: what is asked.
        note: is told of each finished load.

    Returns:
        `date machine batch slo_ms cases[…] max_qps met`, and `server` (memory, processors) where its pid is known.

    Raises:
        InputError: bundle and run do not belong together, or the server does not answer.
        ValidationFailed: an answer was wrong.
        EnvironmentLacks: LoadGen, the client or psutil is missing.
    """
    config = config or ServerBenchConfig()
    opened, requests = _requests(bundle, run, config.batch)
    target: _Target = (
        _Triton(config.url, config.model, config.protocol) if config.url else _InProcess(opened, config.threads)
    )
    pid = config.pid if config.url else os.getpid()
    cases: list[dict[str, Any]] = []

    def asked(scenario: Any, qps: float | None = None) -> Answered:
        with _watched(pid) as used:
            found = drive(target.answer, requests, scenario, workers=config.workers, seconds=config.seconds, qps=qps)
        cases.append(asdict(found) | used)
        note(f"{scenario}: {found.qps:,.0f} requests/s, p99 {found.p99_ms:.2f} ms")
        return found

    alone = asked("single-stream")
    together = asked("offline", alone.qps * 2)
    best = _highest(lambda qps: asked("server", qps), config, together.qps)
    return {
        "date": today(),
        "machine": describe_machine(),
        "bundle": bundle.name,
        "settings": asdict(config),
        "cases": cases,
        "max_qps": best,
        "met": best is not None and (config.qps is None or best >= config.qps),
    }


def _highest(ask: Callable[[float], Answered], config: ServerBenchConfig, limit: float) -> float | None:
    """The stated rate if it holds the latency; without one the highest of those tried that does, by bisection."""
    if config.qps is not None:
        return config.qps if ask(config.qps).p99_ms <= config.slo_ms else None
    low, high, best = 0.0, limit, None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if ask(middle).p99_ms <= config.slo_ms:
            low = best = middle
        else:
            high = middle
    return best


def _requests(bundle: Path, run: Path, batch: int) -> tuple[Bundle, list[Request]]:
    opened, trained = open_bundle(bundle), load_run(run)
    if opened.signature.vocabulary_hash != trained.vocabulary_hash:
        raise InputError("bench: the bundle is not of this run", where=bundle, fix="export the run again")
    feeds = make_feeds(freeze(trained), trained.rows("test"), batch, "replay", 0)
    predictor = load(bundle)
    asked = [as_request(one_request(feed, opened.inputs), opened.inputs) for feed in feeds]
    return opened, [Request(feed, predictor.predict(feed, ["probability"])["probability"]) for feed in asked]


@contextmanager
def _watched(pid: int | None) -> Iterator[dict[str, float]]:
    """Filled in after the block: processors used, and memory of the process and its children, shared pages by share."""
    used: dict[str, float] = {}
    if pid is None:
        yield used
        return
    try:
        import psutil
    except ImportError:
        raise EnvironmentLacks("psutil is not installed", fix="pip install 'amtl-export[serve]'") from None
    server = psutil.Process(pid)
    family = [server, *server.children(recursive=True)]
    before, start = sum(sum(p.cpu_times()[:2]) for p in family), time.monotonic()
    yield used
    used["processors"] = (sum(sum(p.cpu_times()[:2]) for p in family) - before) / (time.monotonic() - start)
    used["pss_bytes"] = float(sum(p.memory_full_info().pss for p in family))
