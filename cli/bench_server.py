"""amtl-export bench server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, THREADS, Choice

LEVEL_MISSED = 5


@click.command("server")
@click.argument("bundle", type=FOLDER)
@click.option("--run", "source", type=SOURCE, required=True, metavar="SOURCE", help="Whose test rows are replayed.")
@click.option("--slo-ms", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="p99 to hold.")
@click.option("--qps", type=click.FloatRange(0, min_open=True), help="Requests a second that must hold it.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Rows of a request.")
@click.option("--workers", type=click.IntRange(1), default=4, show_default=True, help="Clients that wait for answers.")
@click.option("--threads", type=THREADS, default=1, show_default=True, help="Of ONNX Runtime, in this process.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Of each load."
)
@click.option("--url", metavar="HOST:PORT", help="Of a Triton server.  [default: answers in this process]")
@click.option("--model", default="ctr", show_default=True, help="Its name on the server.")
@click.option("--protocol", type=Choice(["http", "grpc"]), default="grpc", show_default=True)
@click.option("--pid", type=click.IntRange(1), help="Of the server, to watch its memory and processors.")
@click.option(
    "--soak-seconds",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Of a last load at 0.8 of the rate that held, which samples the memory.",
)
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Latency over the rate.")
@common
def command(bundle: Path, source: str, plot: Path | None, common: Common, **settings: Any) -> int:
    """How many requests a second BUNDLE answers within a latency; exit code 5 if the stated rate misses it."""
    from amtl_export.bench.server import ServerBenchConfig, bench_server
    from amtl_export.report.plots import plot_load
    from amtl_export.report.tables import load_report

    result = bench_server(bundle, source, ServerBenchConfig(**settings), note=common.note)
    common.result(result, lambda: load_report(result))
    if plot:
        plot_load(result, plot)
    return 0 if result["met"] else LEVEL_MISSED
