"""amtl-export score."""

from __future__ import annotations

from pathlib import Path

import click

from amtl_export.cli.options import RAY, Common, common
from amtl_export.cli.types import FOLDER, THREADS, TextList


@click.command("score")
@click.argument("bundle", type=FOLDER)
@click.option("--data", type=FOLDER, required=True, metavar="FILES", help="A file, or a folder of files, of raw rows.")
@click.option("--out", type=FOLDER, required=True, metavar="PARQUET", help="Scores, in the order of the rows.")
@click.option("--outputs", type=TextList(), default=(), help="Of the bundle.  [default: all]")
@click.option("--keep", type=TextList(), default=(), help="Columns of the data that are written beside the scores.")
@click.option("--batch", type=click.IntRange(1), default=4096, show_default=True, help="Rows of a call of the graph.")
@click.option(
    "--threads", type=THREADS, help="Batches answered at a time.  [default: one a core; on Ray, one a worker]"
)
@click.option("--ray", metavar="ADDRESS", help=f"Score on a Ray cluster, a file at a time of each worker: {RAY}")
@click.option("--workers", type=click.IntRange(1), help="Processes on Ray.  [default: as the cluster has cores]")
@common
def command(
    bundle: Path,
    data: Path,
    out: Path,
    outputs: tuple[str, ...],
    keep: tuple[str, ...],
    batch: int,
    threads: int | None,
    ray: str | None,
    workers: int | None,
    common: Common,
) -> None:
    """Score files of raw rows with BUNDLE.

    Values are read as training read them. An interrupted run goes on with the next file when the same command is given
    again.
    """
    from amtl_export.report.data import scored
    from amtl_export.scoring.score import ScoreConfig, score

    config = ScoreConfig(outputs, keep, batch, threads, ray, workers)
    report = score(bundle, data, out, config, overwrite=common.overwrite, note=common.note)
    common.result(report.to_json(), lambda: scored(report))
