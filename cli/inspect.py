"""amtl-export inspect."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import FOLDER, Common, common


@click.command("inspect")
@click.argument("folder", type=FOLDER)
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Mean dims by frequency group, and the histogram.")
@common
def command(folder: Path, plot: Path | None, common: Common) -> None:
    """Show what a run, frozen model or bundle holds: bytes and dims by field and by frequency."""
    from amtl_export.report.inspection import inspect
    from amtl_export.report.plots import plot_dims
    from amtl_export.report.tables import inspection

    inspected = inspect(folder)
    if plot:
        plot_dims(inspected, plot)
    common.result(inspected.to_json(), lambda: inspection(inspected))
