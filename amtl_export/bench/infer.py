"""`bench infer`: one bundle against what a user would serve instead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.subjects import OnnxSubject, TorchSubject, apart, check_torch, dense_torch
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.bench.traffic import DISTRIBUTIONS, Distribution, Traffic
from amtl_export.bundle.answers import check_answers
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.inputs import one_request
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.session import Provider, check_provider
from amtl_export.spec import TensorSpec
from amtl_export.stages import stage


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
    distributions: tuple[Distribution, ...] = DISTRIBUTIONS
    threads: int = 1
    provider: Provider = "cpu"
    cuda: Cuda | None = None
    seconds: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise InputError("bench: batches", found=self.batches, allowed="at least one, each at least 1")
        if unknown := set(self.distributions) - set(DISTRIBUTIONS):
            raise InputError("bench: unknown id distributions", found=sorted(unknown), allowed=", ".join(DISTRIBUTIONS))
        if self.threads < 1 or self.seconds <= 0:
            raise InputError("bench: threads and seconds", found=(self.threads, self.seconds), allowed="above 0")


def bench_infer(
    bundle: Path | str,
    source: Any,
    config: InferConfig | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time torch-eager, torch-masked, onnx-dense and the bundle in one interleaved run.

    Args:
        bundle: its folder.
        source: the model that it came from, as `freeze` takes it: PyTorch's subjects, the dense export, replayed rows.
        config: what is timed.
        note: is told of each finished case.

    Returns:
        `date machine threads provider cases[…]`, the contract of the design.

    Raises:
        InputError: bundle or source cannot be opened, they do not belong together, or the bundle fails on its own
            sample.
        ValidationFailed: it answers that otherwise than when it was exported.
        EnvironmentLacks: ONNX Runtime or the provider is missing.
    """
    config = config or InferConfig()
    check_provider(config.provider)
    check_torch(config.provider)
    opened = open_bundle(bundle)
    check_answers(opened.path)
    frozen = freeze(source)
    check_same(opened, frozen)
    traffic = traffic_of(opened, frozen)
    with tempfile.TemporaryDirectory() as folder, torch_threads(config.threads):
        subjects = build_subjects(opened, frozen, config, Path(folder))
        cases = time_cases(subjects, traffic, config, note, inputs=opened.inputs)
    about = {"bundle": Path(bundle).name, "run": frozen.origin["run"], "model": summary(frozen)}
    return report(config, cases) | about | {"resampled_inputs": traffic.resampled}


def check_same(bundle: Bundle, frozen: FrozenModel) -> None:
    """Make sure that a bundle is of a model.

    Raises:
        InputError: it has other fields, sizes or vocabularies.
    """
    ours = [(own.name, own.size) for own in frozen.fields if own.table in frozen.tables]
    theirs = [(own.name, own.size) for own in bundle.signature.fields]
    if ours != theirs or bundle.signature.vocabulary_hash != frozen.vocabulary_hash:
        raise InputError("bench: the bundle is not of this run", where=bundle.path, fix="export the run again")


def traffic_of(bundle: Bundle, frozen: FrozenModel) -> Traffic:
    """Traffic of a bundle's model: ids are drawn for inputs that are looked up in a table as they are."""
    return Traffic.of(frozen, {site.input: site.table for site in bundle.signature.lookups if site.input})


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
        "method": frozen.origin["method"],
        "backbone": frozen.origin["backbone"],
        "fields": len(frozen.fields),
        "rows": len(frozen.table.dims),
        "dim": frozen.table.rows.shape[1],
        "avg_dim": float(dims.mean()),
        "hidden": list(frozen.config.hidden) if frozen.data else None,
    }


def build_subjects(bundle: Bundle, frozen: FrozenModel, config: InferConfig, folder: Path) -> list[Subject]:
    """The four subjects; fewer when the bundle is itself the dense one, or the model at hand is frozen already.

    Of a compressed model, dense and eager are the model with rows of D numbers.
    """
    plain = fold(frozen)
    subjects: list[Subject] = [TorchSubject("torch-eager", dense_torch(plain), frozen.inputs, config.provider)]
    if frozen.trained is not None:
        subjects.append(TorchSubject("torch-masked", frozen.trained, frozen.inputs, config.provider))
    request = "-request" if bundle.signature.request_fields else ""
    narrow = frozen.table.rows.shape[1] < frozen.dim(frozen.table_path)
    if bundle.signature.layout != "dense" or request or narrow:
        dense = export(plain, folder / "dense", ExportConfig(layout="dense"))
        subjects.append(OnnxSubject("onnx-dense", dense, config.provider, config.threads))
    name = f"onnx-{_layout(bundle, narrow=narrow)}{request}"
    if bundle.signature.layout == "ragged" and config.provider == "cpu":  # timed without its native operator too
        fallback = apart(bundle, folder / "fallback")
        subjects.append(OnnxSubject(f"{name}-fallback", fallback, config.provider, config.threads, native=False))
    native = True if bundle.signature.layout == "ragged" else None
    return [*subjects, OnnxSubject(name, bundle, config.provider, config.threads, native, config.cuda)]


def _layout(bundle: Bundle, *, narrow: bool) -> str:
    """A bundle's layout; `narrow` for dense rows of a table that was compressed."""
    return "narrow" if narrow and bundle.signature.layout == "dense" else bundle.signature.layout


def time_cases(
    subjects: Sequence[Subject],
    traffic: Traffic,
    config: InferConfig,
    note: Callable[[str], None] = lambda _: None,
    *,
    inputs: Sequence[TensorSpec] = (),
) -> list[dict[str, Any]]:
    """Every batch size under every distribution of ids; where an input is the request's, rows are its candidates."""
    cases = []
    dim = traffic.frozen.table.rows.shape[1]
    for batch in config.batches:
        for ids in config.distributions:
            stage(f"timing batch {batch:,}, {ids} ids")
            feeds = [one_request(feed, inputs) for feed in traffic.feeds(batch, ids, config.seed)]
            times = interleave(subjects, feeds, seconds=config.seconds)
            for subject in subjects:
                latency = Latency.of(times[subject.name], batch)
                case = {"batch": batch, "dim": dim, "threads": config.threads, "ids": ids}
                cases.append(case | {"subject": subject.name, **asdict(latency), "bytes": subject.bytes})
            note(_line(batch, ids, {s.name: Latency.of(times[s.name], batch).p50_us for s in subjects}))
    return cases


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
