"""amtl-export experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.data_options import data_options, model_options, train_config
from amtl_export.cli.options import FOLDER, Common, RatioList, common


@click.command("experiment")
@click.argument("name", metavar="table1|table2|table3|table4|fig3|pareto")
@data_options
@model_options
@click.option("--epochs", type=click.IntRange(min=1), help="At most this many, of each training.")
@click.option("--patience", type=click.IntRange(min=1), help="Epochs without a better validation AUC.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many, from --seed on.")
@click.option("--budgets", type=RatioList(), default="0.2,0.4", show_default=True, help="Mean dims as ratios of D.")
@click.option("--threads", type=click.IntRange(min=1), help="PyTorch's threads.")
@click.option(
    "--out", type=FOLDER, required=True, metavar="FOLDER", help="Runs, table, figure; resumed if given again."
)
@common
def command(
    common: Common, name: str, seeds: int, budgets: tuple[float, ...], threads: int | None, out: Path, **given: Any
) -> None:
    """Run one of the paper's comparisons over seeds; write result.json, table.md and, for some, figure.png."""
    import torch
    from rich.markdown import Markdown

    from amtl_export.experiments.plan import make_plan
    from amtl_export.experiments.report import markdown, plot
    from amtl_export.experiments.sweep import summarise, sweep
    from amtl_export.files import write_json

    if threads:
        torch.set_num_threads(threads)
    base = train_config(seed=common.seed, **given)
    plan = make_plan(name, base, budgets)
    results = sweep(plan, range(common.seed, common.seed + seeds), out, note=common.note)
    summary = summarise(name, plan, base, results)
    write_json(out / "result.json", summary)
    (out / "table.md").write_text(markdown(summary), encoding="utf-8")
    if plan.figure:
        plot(summary, out / "figure.png")
    common.result(summary, lambda: Markdown(markdown(summary)))
