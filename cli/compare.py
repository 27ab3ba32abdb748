"""amtl-export compare."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER


@click.command("compare")
@click.argument("first", metavar="A", type=FOLDER)
@click.argument("second", metavar="B", type=FOLDER)
@common
def command(first: Path, second: Path, common: Common) -> None:
    """Show how two bundles differ: inputs, vocabularies, layouts, bytes, dims, nodes."""
    from amtl_export.report.comparison import compare_bundles
    from amtl_export.report.tables import comparison

    found = compare_bundles(first, second)
    common.result(found.to_json(), lambda: comparison(found, str(first), str(second)))
