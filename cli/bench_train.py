"""amtl-export bench train."""

from __future__ import annotations

from typing import Any

import click

from amtl_export.cli.data_options import data_options, model_options, train_config
from amtl_export.cli.options import Common, common
from amtl_export.cli.types import THREADS, Choice, TextList


@click.command("train")
@data_options
@click.option(
    "--methods",
    type=TextList(),
    default="fbe,amtl",
    show_default=True,
    help="Compared; ratios against the first.",
)
@model_options
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="Timed epochs of each method.")
@click.option("--threads", type=THREADS, help="PyTorch's threads.")
@click.option(
    "--device",
    type=Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where both engines run.",
)
@common
def command(
    common: Common, methods: tuple[str, ...], epochs: int, threads: int | None, device: Any, **given: Any
) -> None:
    """Time training epochs of several methods, taking turns in one run."""
    import torch

    from amtl_export.bench.train import bench_train
    from amtl_export.report.tables import training

    if threads:
        torch.set_num_threads(threads)
    config = train_config(seed=common.seed, **given)
    result = bench_train(config, methods, epochs=epochs, device=device, note=common.note)
    common.result(result, lambda: training(result))
