"""amtl-export train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.data_options import data_options, model_options, train_config
from amtl_export.cli.options import FOLDER, Common, common


@click.command("train")
@data_options
@click.option("--method", default="amtl", show_default=True, help="amtl, aml, amtl_nste, mde, autoemb, cut or fbe.")
@model_options
@click.option("--epochs", type=click.IntRange(min=0), help="At most this many; 0 only with --warm-start.")
@click.option("--patience", type=click.IntRange(min=1), help="Epochs without a better validation AUC.")
@click.option("--warm-start", type=FOLDER, metavar="RUN", help="Begin with a run's embeddings and hidden layers.")
@click.option(
    "--warm-order",
    type=click.Choice(["principal", "as-is"]),
    help="Rows of the earlier run, for methods that select dims: in principal order (the default), or as trained.",
)
@click.option(
    "--select-on",
    type=click.Choice(["train", "valid"]),
    help="Split whose batches the selection network learns from; train by default.",
)
@click.option("--threads", type=click.IntRange(min=1), help="PyTorch's threads.")
@click.option("--out", type=FOLDER, required=True, metavar="RUN", help="The run folder; appears when training is done.")
@common
def command(common: Common, out: Path, threads: int | None, **given: Any) -> None:
    """Train a model and write a run folder.

    An interrupted training goes on from its last finished epoch when the same command is given again.
    """
    import torch

    from amtl_export.cli.progress import watch
    from amtl_export.report.data import metrics
    from amtl_export.training.loop import train

    config = train_config(seed=common.seed, **given)
    if threads:
        torch.set_num_threads(threads)
    with watch(common) as observer:
        run = train(config, out, overwrite=common.overwrite, observer=observer)
    common.result(run.metrics, lambda: metrics(run.metrics))
