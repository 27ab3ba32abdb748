"""amtl-export inspect."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE


@click.command("inspect")
@click.argument("source", type=SOURCE, metavar="BUNDLE|SOURCE")
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Mean dims by frequency group, and the histogram.")
@common
def command(source: str, plot: Path | None, common: Common) -> None:
    """Show what a bundle or a model holds: bytes and dims by field and by frequency.

    SOURCE is a run, a frozen model, or my_model.py:build.
    """
    from amtl_export.report.inspection import inspect
    from amtl_export.report.plots import plot_dims
    from amtl_export.report.tables import inspection

    inspected = inspect(source)
    common.result(inspected.to_json(), lambda: inspection(inspected))
    if plot:
        plot_dims(inspected, plot)
