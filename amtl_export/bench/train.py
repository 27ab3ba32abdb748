"""`bench train`: seconds per epoch by method, epochs of the methods taking turns in one run."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.data.catalog import open_source
from amtl_export.data.encode import encode
from amtl_export.errors import InputError
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import Silent, TrainState, reproducible
from amtl_export.training.run import build_model, model_config_for


def bench_train(
    config: TrainConfig,
    methods: Sequence[str],
    *,
    epochs: int = 3,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time training epochs, validation left out.

    Args:
        config: data, sizes, batch; its method is ignored.
        methods: who is compared; ratios are against the first.
        epochs: timed epochs of each, after one that is not counted.
        note: is told of each finished round.

    Returns:
        `date machine threads cases[{method, epoch_seconds, median_s, ratio, examples_per_second}]`.

    Raises:
        InputError: unknown method, or bad data.
    """
    if not methods or epochs < 1:
        raise InputError(
            "bench train: methods and epochs", found=(list(methods), epochs), allowed="at least one of each"
        )
    configs = [replace(config, method=method) for method in methods]
    source = open_source(config.data, Path(config.path) if config.path else None)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    with tempfile.TemporaryDirectory() as folder, reproducible(config.seed):
        encoded = encode(source, Path(folder) / "data", config.seed, config.limit_rows)
        rows = len(encoded.rows["train"])
        states = [TrainState.start(build_model(model_config_for(c, encoded), encoded.vocabularies), c) for c in configs]
        for number in range(epochs + 1):
            for state in states:
                record = state.run_epoch(encoded, Silent())
                if number:
                    seconds[state.config.method].append(record["seconds"])
            if number:
                note("  ".join(f"{method} {times[-1]:.2f} s" for method, times in seconds.items()))
    first = statistics.median(seconds[methods[0]])
    cases = []
    for method in methods:
        median = statistics.median(seconds[method])
        cases.append(
            {
                "method": method,
                "epoch_seconds": seconds[method],
                "median_s": median,
                "ratio": median / first,
                "examples_per_second": rows / median,
            }
        )
    return {
        "date": today(),
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "data": config.data,
        "batch_size": config.batch_size,
        "dim": config.dim,
        "rows": rows,
        "cases": cases,
    }
