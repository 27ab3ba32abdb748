"""amtl-export compress."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, Choice, as_argument


@click.command("compress")
@click.argument("source", type=SOURCE)
@click.option("--out", type=FOLDER, metavar="FROZEN", help="The compressed model; export takes it like a run.")
@click.option(
    "--dim-budget",
    type=click.FloatRange(min=0, max=1, min_open=True),
    metavar="R",
    help="Mean dims of the fields that are cut end at R·D or below.",
)
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Take the smallest table whose AUC on the valid split is at most X lower.  [default: 1e-4]",
)
@click.option(
    "--all-fields", is_flag=True, help="Of a run: cut the fields too that its schema does not mark as governed."
)
@click.option(
    "--dtype",
    type=Choice(["auto", "fp32", "fp16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Of the stored values; auto: what the AUC drop allows, fp32 with a budget.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, with bytes and AUC; write nothing.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="Plot AUC against bytes.")
@common
def command(
    source: str,
    out: Path | None,
    dim_budget: float | None,
    max_auc_drop: float | None,
    all_fields: bool,
    dtype: Any,
    dry_run: bool,
    plot: Path | None,
    common: Common,
) -> None:
    """Cut the tables of a trained model to a part of their size, without training.

    SOURCE is a run, a frozen model, or my_model.py:build. Rows are rewritten so that their leading numbers matter most;
    each id keeps as many as are worth their bytes.
    """
    from amtl_export.compression.compress import compress
    from amtl_export.files import check_source
    from amtl_export.freezing.folder import save_frozen
    from amtl_export.freezing.frozen import freeze
    from amtl_export.report.compression import compressed
    from amtl_export.report.plots import check_curve, plot_curve
    from amtl_export.report.tables import of_target
    from amtl_export.tables.plan import PlanConfig, target_gives

    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out' (or ask for '--dry-run').")
    if out is not None and not dry_run:
        check_source(source, out, common.overwrite)
    frozen = freeze(source)
    if plot is not None:
        check_curve(frozen.labelled is not None)
    model = compress(
        frozen, dim_budget=dim_budget, max_auc_drop=max_auc_drop, all_fields=all_fields, dtype=dtype, note=common.note
    )
    assert model.compressed is not None
    report = model.compressed.report
    if out is not None and not dry_run:
        save_frozen(model, out, overwrite=common.overwrite)
    common.result(report, lambda: compressed(report))
    if plot is not None:
        plot_curve(report, plot)
    if out is not None and not dry_run and common.is_shown:
        portable, native = (of_target(target_gives(model, PlanConfig(), own)) for own in ("portable", "native"))
        export = f"  {join(['amtl-export', 'export', as_argument(out), '--out', 'BUNDLE'])}"
        common.say("Next, export it:", export, f"    for any ONNX Runtime: {portable}")
        common.say(f"{export} --target native", f"    where the native operators are registered: {native}")
