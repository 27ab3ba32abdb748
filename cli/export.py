"""amtl-export export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import FOLDER, Common, common


@click.command("export")
@click.argument("run", type=FOLDER)
@click.option(
    "--out", type=FOLDER, required=True, metavar="BUNDLE", help="The bundle; appears when every check passed."
)
@click.option("--layout", default="auto", show_default=True, help="How rows lie: auto, dense, paged, blocks, ragged.")
@click.option("--page-width", type=click.IntRange(min=1), help="Floats of a page (paged); chosen by cost if not given.")
@click.option("--dtype", type=click.Choice(["fp32"]), default="fp32", show_default=True, help="Of the stored values.")
@click.option(
    "--id-policy",
    type=click.Choice(["guard", "trust"]),
    default="guard",
    show_default=True,
    help="guard: any id is answered; trust: ids must be legal, which saves four nodes.",
)
@common
def command(
    run: Path, out: Path, layout: Any, page_width: int | None, dtype: Any, id_policy: Any, common: Common
) -> None:
    """Write an ONNX bundle from RUN (or from a frozen model), and check it against PyTorch."""
    from amtl_export.bundle.export import ExportConfig, export, open_exportable
    from amtl_export.report.tables import bundle_report

    config = ExportConfig(layout, dtype, page_width, id_policy)
    bundle = export(open_exportable(run), out, config, overwrite=common.overwrite)
    report = bundle.report()
    common.result(report, lambda: bundle_report(report, str(out)))
