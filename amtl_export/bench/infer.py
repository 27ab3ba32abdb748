"""`bench infer`: one bundle against what a user would serve instead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.subjects import OnnxSubject, TorchSubject, apart, check_torch, dense_torch
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.inputs import Feed, draw, from_rows, one_request
from amtl_export.data.encode import Rows
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, fold, freeze
from amtl_export.graph.inputs import Input
from amtl_export.models.config import ModelConfig
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.session import Provider, check_provider
from amtl_export.training.run import Run, load_run

IdDistribution = Literal["zipf", "uniform", "replay"]
ID_DISTRIBUTIONS: tuple[IdDistribution, ...] = ("zipf", "uniform", "replay")

#: Rows that the rotating inputs touch take at least this many bytes: more than a server's caches.
_TOUCHED_BYTES = 256 << 20
_MAX_FEEDS = 256


@dataclass(frozen=True)
class InferConfig:
    """What is timed.

    Attributes:
        batches: rows of a request.
        distributions: how ids are drawn; `replay` takes the test split's rows in order.
        threads: of PyTorch and of ONNX Runtime.
        provider: where ONNX Runtime and PyTorch run.
        cuda: how the bundle runs on CUDA; None for the usual.
        seconds: for each batch and distribution.
        seed: of the drawn ids.
    """

    batches: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096)
    distributions: tuple[IdDistribution, ...] = ID_DISTRIBUTIONS
    threads: int = 1
    provider: Provider = "cpu"
    cuda: Cuda | None = None
    seconds: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise InputError("bench: batches", found=self.batches, allowed="at least one, each at least 1")
        if unknown := set(self.distributions) - set(ID_DISTRIBUTIONS):
            raise InputError(
                "bench: unknown id distributions", found=sorted(unknown), allowed=", ".join(ID_DISTRIBUTIONS)
            )
        if self.threads < 1 or self.seconds <= 0:
            raise InputError("bench: threads and seconds", found=(self.threads, self.seconds), allowed="above 0")


def bench_infer(
    bundle: Path,
    run: Path,
    config: InferConfig | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time torch-eager, torch-masked, onnx-dense and the bundle in one interleaved run.

    Args:
        bundle: its folder.
        run: the run it came from: PyTorch's subjects, the dense export and replayed rows.
        config: what is timed.
        note: is told of each finished case.

    Returns:
        `date machine threads provider cases[…]`, the contract of the design.

    Raises:
        InputError: bundle or run cannot be opened, or they do not belong together.
        EnvironmentLacks: ONNX Runtime or the provider is missing.
    """
    config = config or InferConfig()
    check_provider(config.provider)
    check_torch(config.provider)
    opened, trained = open_bundle(bundle), load_run(run)
    if opened.signature.vocabulary_hash != trained.vocabulary_hash:
        raise InputError("bench: the bundle is not of this run", where=bundle, fix="export the run again")
    frozen = freeze(trained)
    with tempfile.TemporaryDirectory() as folder, torch_threads(config.threads):
        subjects = build_subjects(opened, trained, frozen, config, Path(folder))
        cases = time_cases(subjects, frozen, trained.rows("test"), config, note, inputs=opened.inputs)
    return report(config, cases) | {"bundle": bundle.name, "run": run.name, "model": summary(frozen)}


def report(config: InferConfig, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON form of an inference benchmark."""
    return {
        "date": today(),
        "machine": describe_machine(),
        "threads": config.threads,
        "provider": config.provider,
        "table_device": config.cuda.tables if config.cuda else config.provider,
        "cases": cases,
    }


def summary(frozen: FrozenModel) -> dict[str, Any]:
    """What was timed, in numbers."""
    dims = frozen.table.dims.double()
    return {
        "method": frozen.config.method,
        "backbone": frozen.config.backbone,
        "fields": len(frozen.config.embedded),
        "rows": len(frozen.table.dims),
        "dim": frozen.config.dim,
        "avg_dim": float(dims.mean()),
        "hidden": list(frozen.config.hidden),
    }


def build_subjects(bundle: Bundle, run: Run, frozen: FrozenModel, config: InferConfig, folder: Path) -> list[Subject]:
    """The four subjects; three when the bundle is itself the dense one."""
    plain = fold(frozen) if frozen.projection_bytes else frozen
    subjects: list[Subject] = [
        TorchSubject("torch-eager", dense_torch(plain), config.provider),
        TorchSubject("torch-masked", run.model, config.provider),
    ]
    request = "-request" if bundle.signature.request_fields else ""
    if bundle.signature.layout != "dense" or request:
        dense = export(plain, folder / "dense", ExportConfig(layout="dense"))
        subjects.append(OnnxSubject("onnx-dense", dense, config.provider, config.threads))
    name = f"onnx-{bundle.signature.layout}{request}"
    if bundle.signature.layout == "ragged" and config.provider == "cpu":  # timed without its native operator too
        fallback = apart(bundle, folder / "fallback")
        subjects.append(OnnxSubject(f"{name}-fallback", fallback, config.provider, config.threads, native=False))
    native = True if bundle.signature.layout == "ragged" else None
    return [*subjects, OnnxSubject(name, bundle, config.provider, config.threads, native, config.cuda)]


def time_cases(
    subjects: Sequence[Subject],
    frozen: FrozenModel,
    replay: Rows,
    config: InferConfig,
    note: Callable[[str], None] = lambda _: None,
    *,
    inputs: Sequence[Input] = (),
) -> list[dict[str, Any]]:
    """Every batch size and id distribution; where an input is the request's, rows are one request's candidates."""
    cases = []
    for batch in config.batches:
        for distribution in config.distributions:
            feeds = [one_request(feed, inputs) for feed in make_feeds(frozen, replay, batch, distribution, config.seed)]
            times = interleave(subjects, feeds, seconds=config.seconds)
            for subject in subjects:
                latency = Latency.of(times[subject.name], batch)
                case = {"batch": batch, "dim": frozen.config.dim, "threads": config.threads, "ids": distribution}
                cases.append(case | {"subject": subject.name, **asdict(latency), "bytes": subject.bytes})
            note(_line(batch, distribution, {s.name: Latency.of(times[s.name], batch).p50_us for s in subjects}))
    return cases


def make_feeds(frozen: FrozenModel, replay: Rows, batch: int, distribution: IdDistribution, seed: int) -> list[Feed]:
    """Enough inputs of one kind that their rows together outgrow the caches."""
    config: ModelConfig = frozen.config
    touched = batch * len(config.embedded) * config.dim * 4
    count = int(np.clip(-(-_TOUCHED_BYTES // touched), 8, _MAX_FEEDS))
    if distribution != "replay":
        rng = np.random.default_rng(np.random.SeedSequence([seed, batch]))
        return [draw(config, frozen.vocabularies, batch, rng, distribution) for _ in range(count)]
    starts = [(i * batch) % len(replay) for i in range(count)]
    return [from_rows(replay.take((s + np.arange(batch)) % len(replay)), config) for s in starts]


def _line(batch: int, distribution: str, medians: dict[str, float]) -> str:
    shown = "  ".join(f"{name} {us:,.0f} µs" for name, us in medians.items())
    return f"batch {batch:>5}, {distribution:<7}: {shown}"


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch's thread count inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
