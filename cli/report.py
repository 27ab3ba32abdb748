"""amtl-export report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, Choice
from amtl_export.cli.validate import VALIDATION_FAILED


@click.command("report")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--vs",
    "source",
    type=SOURCE,
    metavar="SOURCE",
    help="The model that it came from, which it is proven against.  [default: nothing is proven]",
)
@click.option("--out", type=FOLDER, required=True, metavar="FILE.html", help="One file that needs no network.")
@click.option(
    "--bench", type=FOLDER, multiple=True, metavar="JSON", help="What bench infer --json wrote; may be given again."
)
@click.option(
    "--split", type=Choice(["valid", "test"]), default="test", show_default=True, help="Whose rows are scored."
)
@common
def command(bundle: Path, source: str | None, out: Path, bench: tuple[Path, ...], split: Any, common: Common) -> int:
    """Write one HTML file on BUNDLE: verdict, bytes, dims, latency, weights.

    Exit code 3 if the bundle does not answer as SOURCE does; the page says why.
    """
    from rich.text import Text

    from amtl_export.report.page import check_page, write_report

    check_page(out, common.overwrite)
    verdict = None
    if source is not None:  # what proves needs PyTorch, the page itself does not
        from amtl_export.validation.validate import validate

        verdict = validate(bundle, source, split=split)
    path = write_report(bundle, out, verdict, bench, overwrite=common.overwrite)
    said = "not proven" if verdict is None else verdict.verdict
    common.result({"path": str(path), "verdict": None if verdict is None else said}, lambda: Text(f"{path}: {said}"))
    return VALIDATION_FAILED if verdict is not None and verdict.problems else 0
