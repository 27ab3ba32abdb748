"""amtl-export experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.data_options import data_options, model_options, setting, train_config
from amtl_export.cli.options import RAY, Common, common
from amtl_export.cli.types import FOLDER, THREADS, Choice, RatioList, TextList

#: What `experiments.run` knows.
EXPERIMENTS = (
    *("table1", "table2", "table3", "table4", "table5"),
    *("fig3", "pareto", "warm", "planted", "backbones", "settings"),
)


@click.command("experiment")
@click.argument("name", type=Choice(EXPERIMENTS), metavar="NAME")
@data_options
@model_options
@setting("--epochs", click.IntRange(min=1), "At most this many, of each training.")
@click.option(
    "--warm-epochs", type=click.IntRange(min=1), help="Of trainings that start from a run.  [default: --epochs]"
)
@click.option(
    "--arms",
    type=TextList(),
    default="",
    help="Only these rows of the table, and those they start from.  [default: all]",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many, from --seed on.")
@click.option("--budgets", type=RatioList(), default="0.2,0.4", show_default=True, help="Mean dims as ratios of D.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings at a time, each a process."
)
@click.option("--ray", metavar="ADDRESS", help=f"Train on a Ray cluster, as many at a time as it has cores for: {RAY}")
@click.option(
    "--threads",
    type=THREADS,
    help="PyTorch's threads; --jobs share them, on Ray each training has so many.  [default: one a core; on Ray, one]",
)
@click.option(
    "--out", type=FOLDER, required=True, metavar="FOLDER", help="One for all experiments: they share their runs."
)
@common
def command(
    common: Common,
    name: str,
    seeds: int,
    budgets: tuple[float, ...],
    warm_epochs: int | None,
    arms: tuple[str, ...],
    jobs: int,
    ray: str | None,
    threads: int | None,
    out: Path,
    **given: Any,
) -> None:
    """Run one of the paper's comparisons over seeds; write NAME.json, NAME.md and, for some, NAME.png.

    NAME is one of these.

    table1: AUC. table2: mean dims. table3: warm start. table4: ablations. table5: seconds (no seeds, no budgets;
    --epochs is how many rounds). fig3: dims by frequency. pareto: AUC against bytes. Beyond the paper: warm, AMTL from
    principal order against rows as trained; planted, who recovers a planted rank (--data synthetic:…); backbones; and
    settings, what each setting of AMTL does. What was trained before in the same folder is not trained again.
    """
    from rich.markdown import Markdown

    from amtl_export.experiments.run import run_experiment
    from amtl_export.experiments.spread import Spread

    spread = Spread(jobs, ray, threads)
    base = train_config(seed=common.seed, **given)
    chosen = range(common.seed, common.seed + seeds)
    named = [arm for arm in arms if arm]
    summary, text = run_experiment(
        name, base, chosen, budgets, out, warm_epochs=warm_epochs, arms=named, spread=spread, note=common.note
    )
    common.result(summary, lambda: Markdown(text))
