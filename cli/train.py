"""amtl-export train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from amtl_export.cli.data_options import data_options, model_options, setting, train_config
from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, THREADS, Choice
from amtl_export.models.config import METHOD_NAMES


@click.command("train")
@data_options
@setting("--method", Choice(METHOD_NAMES), "How rows are embedded.")
@model_options
@setting("--epochs", click.IntRange(min=0), "At most this many; 0 only with --warm-start.")
@click.option("--warm-start", type=FOLDER, metavar="RUN", help="Begin with a run's embeddings and hidden layers.")
@click.option(
    "--warm-order",
    type=Choice(["principal", "as-is"]),
    help="Rows of the earlier run, for methods that select dims: in principal order, or as trained.  "
    "[default: principal, as-is after a method that selects dims]",
)
@setting("--select-on", Choice(["train", "valid"]), "Split whose batches the selection network learns from.")
@click.option("--threads", type=THREADS, help="PyTorch's threads.  [default: one a core]")
@click.option("--out", type=FOLDER, required=True, metavar="RUN", help="The run folder; appears when training is done.")
@common
def command(common: Common, out: Path, threads: int | None, **given: Any) -> None:
    """Train a model and write a run folder.

    An interrupted training goes on from its last finished epoch when the same command is given again.

    In several processes: torchrun --nproc-per-node N -m amtl_export train ... ; they share every batch.
    """
    import torch

    from amtl_export.cli.progress import watch
    from amtl_export.report.data import metrics
    from amtl_export.training.distributed import joined
    from amtl_export.training.loop import train

    if threads:
        torch.set_num_threads(threads)
    with joined() as ranks:
        config = train_config(seed=common.seed, **given)
        with watch(common if ranks.first else replace(common, quiet=True)) as observer:
            run = train(config, out, overwrite=common.overwrite, observer=observer)
        if ranks.first:
            common.result(run.metrics, lambda: metrics(run.metrics))
