"""amtl-export export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import FOLDER, Common, TextList, common


@click.command("export")
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, metavar="BUNDLE", help="The bundle; appears when every check passed.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan: layout, value type, bytes and expected cost of each table."
)
@click.option("--layout", default="auto", show_default=True, help="How rows lie: auto, dense, paged, blocks, ragged.")
@click.option("--page-width", type=click.IntRange(min=1), help="Floats of a page (paged); chosen by cost if not given.")
@click.option("--dtype", default="fp32", show_default=True, help="Of the stored values: fp32, fp16, int8.")
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(min=0),
    help="Take the smallest value type whose |ΔAUC| on the valid split is at most this.",
)
@click.option(
    "--target",
    default="portable",
    show_default=True,
    help="What will run the bundle: portable, any ONNX Runtime; native, one with the native operators registered.",
)
@click.option(
    "--first-layer",
    default="auto",
    show_default=True,
    help="plain: lookup, then layer; fused: one node for both (ragged); auto: what is expected to be faster.",
)
@click.option(
    "--layer-dtype",
    default="fp32",
    show_default=True,
    help="Of the weights of a fused first layer: fp32, or int8 beside int8 rows (--dtype int8).",
)
@click.option(
    "--id-policy",
    type=click.Choice(["guard", "trust"]),
    default="guard",
    show_default=True,
    help="guard: any id is answered; trust: ids must be legal, which saves four nodes.",
)
@click.option(
    "--request-fields",
    type=TextList(),
    default=(),
    help="Fields that all candidates of a request share, such as the user's: given and computed once.",
)
@common
def command(
    run: Path, out: Path | None, dry_run: bool, max_auc_drop: float | None, common: Common, **wanted: Any
) -> None:
    """Write an ONNX bundle from RUN (or from a frozen model), and check it against PyTorch."""
    from amtl_export.bundle.export import ExportConfig, export, open_exportable, plan
    from amtl_export.bundle.value_types import choose_dtype
    from amtl_export.report.tables import bundle_report, plan_report

    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out' (or ask for '--dry-run').")
    config = ExportConfig(**wanted)
    if max_auc_drop is not None:
        config = choose_dtype(run, config, max_auc_drop)
    frozen = open_exportable(run)
    if dry_run or out is None:
        plans = {path: table.to_json() for path, table in plan(frozen, config).items()}
        common.result({"plan": plans}, lambda: plan_report(plans))
        return
    bundle = export(frozen, out, config, overwrite=common.overwrite)
    report = bundle.report()
    common.result(report, lambda: bundle_report(report, str(out)))
