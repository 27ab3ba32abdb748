"""amtl-export freeze."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import FOLDER, Common, common


@click.command("freeze")
@click.argument("run", type=FOLDER)
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    metavar="FOLDER",
    help="The frozen model; export takes it like a run.",
)
@common
def command(run: Path, out: Path, common: Common) -> None:
    """Turn RUN into constants: dims of every id, rows zero past them, the backbone; no selection network."""
    from amtl_export.freezing.frozen import freeze, save_frozen
    from amtl_export.report.inspection import inspect
    from amtl_export.report.tables import inspection
    from amtl_export.training.run import load_run

    save_frozen(freeze(load_run(run)), out, overwrite=common.overwrite)
    inspected = inspect(out)
    common.result(inspected.to_json(), lambda: inspection(inspected))
