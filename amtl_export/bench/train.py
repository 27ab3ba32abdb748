"""`bench train`: seconds by method for a training epoch and for inference, methods taking turns in one run."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.subjects import check_torch
from amtl_export.bundle.export import export
from amtl_export.data.catalog import open_source
from amtl_export.data.encode import Encoded, Rows, encode
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import of_trained
from amtl_export.runtime.session import Provider, check_provider
from amtl_export.spec import Feed
from amtl_export.stages import stage
from amtl_export.traffic.draw import from_rows
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import reproducible
from amtl_export.training.observer import Silent
from amtl_export.training.run import build_model, model_config_for
from amtl_export.training.state import TrainState

#: What is timed in every round.
MEASURES = ("epoch", "inference_torch", "inference_onnx")


def bench_train(
    config: TrainConfig,
    methods: Sequence[str],
    *,
    epochs: int = 3,
    device: Provider = "cpu",
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time training epochs, and answering the test split in PyTorch (method in place) and in ONNX Runtime (exported).

    Args:
        config: data, sizes, batch; its method is ignored.
        methods: who is compared; ratios are against the first.
        epochs: timed rounds, after one epoch of each that is not counted and is what gets exported.
        device: where both engines run; batches come from the machine's memory.
        note: is told of each finished round.

    Returns:
        `date machine threads rows inference_rows cases[…]`; of each case `method`, and for the epoch and both
        kinds of inference the seconds of every round, their median and its ratio to the first method's; of a step
        the milliseconds.

    Raises:
        InputError: unknown method, or bad data.
        EnvironmentLacks: ONNX Runtime or the device is missing.
    """
    check_torch(device)
    check_provider(device)
    if not methods or epochs < 1:
        raise InputError(
            "bench train: methods and epochs", found=(list(methods), epochs), allowed="at least one of each"
        )
    configs = [replace(config, method=method) for method in methods]
    source = open_source(config.data, config.path)
    # Some of what training needs has no deterministic form on CUDA.
    fixed = reproducible(config.seed) if device == "cpu" else nullcontext()
    with tempfile.TemporaryDirectory() as folder, fixed:
        stage("reading and encoding the rows")
        encoded = encode(source, Path(folder) / "data", config.seed, config.limit_rows)
        subjects = [_Subject.start(c, encoded, Path(folder) / c.method, device) for c in configs]
        for number in range(epochs):
            for subject in subjects[number % len(subjects) :] + subjects[: number % len(subjects)]:
                stage(f"round {number + 1}/{epochs}, {subject.state.config.method}")
                subject.round(encoded)
            note("  ".join(f"{s.state.config.method} {s.seconds['epoch'][-1]:.2f} s" for s in subjects))
    rows = len(encoded.rows["train"])
    return {
        "date": today(),
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "device": device,
        "data": config.data,
        "batch_size": config.batch_size,
        "dim": config.dim,
        "rows": rows,
        "inference_rows": len(encoded.rows["test"]),
        "cases": [_case(subject, subjects[0], rows) for subject in subjects],
    }


@dataclass
class _Subject:
    """One method in training, and its bundle."""

    state: TrainState
    session: Any
    feed: Feed
    scores: tuple[str, ...]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {measure: [] for measure in MEASURES})

    @classmethod
    def start(cls, config: TrainConfig, encoded: Encoded, folder: Path, device: Provider) -> _Subject:
        """Train one epoch, export."""
        model_config = model_config_for(config, encoded)
        stage(f"{config.method}, an epoch that is not counted")
        state = TrainState.start(build_model(model_config, encoded.vocabularies).to(device), config)
        state.run_epoch(encoded, Silent())
        origin = {"run": "", "method": config.method, "backbone": config.backbone, "seed": config.seed, "data": ""}
        model = copy.deepcopy(state.model).cpu().eval()
        bundle = export(of_trained(model, model_config, encoded.schema, encoded.vocabularies, origin), folder)
        session = bundle.session(provider=device, threads=torch.get_num_threads())
        feed = from_rows(encoded.rows["test"], model_config)
        subject = cls(state, session, feed, bundle.signature.scores)
        subject._answer(encoded.rows["test"], config.batch_size)  # a session's first answers take its memory
        return subject

    def round(self, encoded: Encoded) -> None:
        """An epoch, then the test split twice."""
        test, batch = encoded.rows["test"], self.state.config.batch_size
        self.seconds["epoch"].append(self.state.run_epoch(encoded, Silent())["seconds"])
        self.seconds["inference_torch"].append(_timed(lambda: predict(self.state.model, test, batch)))
        self.seconds["inference_onnx"].append(_timed(lambda: self._answer(test, batch)))

    def _answer(self, rows: Rows, batch: int) -> None:
        for start in range(0, len(rows), batch):
            self.session.run(
                list(self.scores), {name: values[start : start + batch] for name, values in self.feed.items()}
            )


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _case(subject: _Subject, first: _Subject, rows: int) -> dict[str, Any]:
    case: dict[str, Any] = {"method": subject.state.config.method}
    for measure in MEASURES:
        median = statistics.median(subject.seconds[measure])
        case[f"{measure}_seconds"] = subject.seconds[measure]
        case[f"{measure}_median_s"] = median
        case[f"{measure}_ratio"] = median / statistics.median(first.seconds[measure])
    step = case["epoch_median_s"] / -(-rows // subject.state.config.batch_size)
    return case | {"examples_per_second": rows / case["epoch_median_s"], "step_ms": step * 1e3}
