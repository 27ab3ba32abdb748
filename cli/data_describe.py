"""amtl-export data describe."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.data_options import data_options
from amtl_export.cli.options import Common, common


@click.command("describe")
@data_options
@common
def command(data: str, path: Path | None, limit_rows: int | None, common: Common) -> None:
    """Print fields, vocabulary sizes, skew and label rate."""
    from amtl_export.data.catalog import open_source
    from amtl_export.data.describe import describe
    from amtl_export.report.data import data_summary

    summary = describe(open_source(data, path), common.seed, limit_rows)
    common.result(summary.to_json(), lambda: data_summary(summary))
