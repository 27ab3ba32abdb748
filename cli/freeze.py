"""amtl-export freeze."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE


@click.command("freeze")
@click.argument("source", type=SOURCE)
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    metavar="FOLDER",
    help="The frozen model; export takes it like a run.",
)
@common
def command(source: str, out: Path, common: Common) -> None:
    """Turn SOURCE into constants: dims of every id, rows zero past them, the backbone; no selection network.

    SOURCE is a run, or my_model.py:build.
    """
    from amtl_export.freezing.folder import save_frozen
    from amtl_export.freezing.frozen import freeze
    from amtl_export.report.inspection import inspect
    from amtl_export.report.tables import inspection
    from amtl_export.source.source import is_factory

    factory = source if is_factory(source) else None
    save_frozen(freeze(source), out, factory=factory, overwrite=common.overwrite)
    inspected = inspect(out)
    common.result(inspected.to_json(), lambda: inspection(inspected))
