"""amtl-export export."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, Choice, TextList, as_argument


@click.command("export")
@click.argument("source", type=SOURCE)
@click.option("--out", type=FOLDER, metavar="BUNDLE", help="The bundle; appears when every check passed.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan: layout, value type, bytes and expected cost of each table."
)
@click.option(
    "--layout",
    type=Choice(["auto", "dense", "paged", "blocks", "ragged"]),
    default="auto",
    show_default=True,
    help="How rows lie.",
)
@click.option("--page-width", type=click.IntRange(min=1), help="Floats of a page (paged); chosen by cost if not given.")
@click.option(
    "--dtype",
    type=Choice(["auto", "fp32", "fp16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Of the stored values (int4: ragged or dense); auto: what compress found, else fp32.",
)
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(min=0),
    help="Take the smallest value type whose |ΔAUC| on the valid split is at most this.",
)
@click.option(
    "--target",
    type=Choice(["portable", "native"]),
    default="portable",
    show_default=True,
    help="What will run the bundle: portable, any ONNX Runtime; native, one with the native operators registered.",
)
@click.option(
    "--first-layer",
    type=Choice(["auto", "plain", "fused"]),
    default="auto",
    show_default=True,
    help="plain: lookup, then layer; fused: one node for both (ragged); auto: what is expected to be faster.",
)
@click.option(
    "--layer-dtype",
    type=Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Of linear layers: int8 quantizes those that gain by it, and what they multiply, example by example.",
)
@click.option(
    "--id-policy",
    type=Choice(["guard", "trust"]),
    default="guard",
    show_default=True,
    help="guard: any id is answered; trust: ids must be legal, which saves four or five nodes.",
)
@click.option(
    "--request-fields",
    type=TextList(),
    default=(),
    help="Fields that all candidates of a request share, such as the user's: given and computed once.",
)
@common
def command(
    source: str, out: Path | None, dry_run: bool, max_auc_drop: float | None, common: Common, **wanted: Any
) -> None:
    """Write an ONNX bundle from SOURCE, and check it against PyTorch.

    SOURCE is a run, a frozen model, or my_model.py:build, a function that gives a module of yours and its example.
    """
    from amtl_export.bundle.export import ExportConfig, export
    from amtl_export.bundle.value_types import choose_dtype
    from amtl_export.freezing.frozen import freeze
    from amtl_export.report.tables import bundle_report, of_target, plan_report
    from amtl_export.tables.plan import plan, target_gives

    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out' (or ask for '--dry-run').")
    config = ExportConfig(**wanted)
    frozen = freeze(source)
    if max_auc_drop is not None:
        config = choose_dtype(frozen, config, max_auc_drop)
    if dry_run or out is None:
        plans = {path: table.to_json() for path, table in plan(frozen, config).items()}
        common.result({"plan": plans}, lambda: plan_report(plans))
        return
    bundle = export(frozen, out, config, overwrite=common.overwrite)
    report = bundle.report()
    other = target_gives(frozen, config, "portable" if config.target == "native" else "native")
    common.result(report | {"other_target": other}, lambda: bundle_report(report, str(out)))
    validate = ["amtl-export", "validate", as_argument(out), "--run", source]
    package = ["amtl-export", "package", as_argument(out), "--triton", "repository", "--name", "NAME"]
    needs = ", where the native operators are registered" if other["target"] == "native" else ", on any ONNX Runtime"
    would = f"--target {other['target']} would give {of_target(other)}{'' if other['problem'] else needs}"
    common.say(would, "Next, prove it and package it:", f"  {join(validate)}", f"  {join(package)}")
