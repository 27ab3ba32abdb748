"""amtl-export validate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, Choice

VALIDATION_FAILED = 3


@click.command("validate")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--run",
    "source",
    type=SOURCE,
    required=True,
    metavar="SOURCE",
    help="The model that it came from: a run, a frozen model, or my_model.py:build.",
)
@click.option(
    "--split",
    type=Choice(["valid", "test"]),
    default="test",
    show_default=True,
    help="Whose rows are scored.",
)
@click.option(
    "--provider",
    type=Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the graph runs.",
)
@click.option(
    "--auc-atol",
    type=click.FloatRange(min=0),
    help="On |ΔAUC|.  [default: 1e-6; 1e-4 for fp16 and int8; 1e-3 for int4]",
)
@click.option(
    "--logit-atol",
    type=click.FloatRange(min=0),
    help="On any |Δlogit|.  [default: 1e-4; 1e-2 where layers quantize what they multiply]",
)
@common
def command(
    bundle: Path,
    source: str,
    split: Any,
    provider: Any,
    auc_atol: float | None,
    logit_atol: float | None,
    common: Common,
) -> int:
    """Prove that BUNDLE answers as SOURCE does; exit code 3 if not.

    Every row bit for bit, ids outside the tables, batches of none and of one, the labelled examples' scores.
    """
    from amtl_export.errors import printable
    from amtl_export.report.tables import verdict
    from amtl_export.validation.validate import validate
    from amtl_export.validation.verdict import Tolerances

    tolerances = Tolerances(auc_atol, logit_atol)
    outcome = validate(bundle, source, split=split, provider=provider, tolerances=tolerances)
    common.result(outcome.to_json(), lambda: verdict(outcome))
    if common.quiet and outcome.problems:
        lines = ["error: validation failed", *(f"  {problem}" for problem in outcome.problems)]
        click.echo(printable("\n".join(lines)), err=True)
    return VALIDATION_FAILED if outcome.problems else 0
