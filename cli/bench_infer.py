"""amtl-export bench infer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, SOURCE, THREADS, Choice, IntList, TextList


@click.command("infer")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--vs",
    "source",
    type=SOURCE,
    required=True,
    metavar="SOURCE",
    help="The model that it came from: a run, a frozen model, or my_model.py:build.",
)
@click.option("--batch", type=IntList(), default="1,16,64,256,1024,4096", show_default=True, help="Rows of a request.")
@click.option("--ids", type=TextList(), default="zipf,uniform,replay", show_default=True, help="How ids are drawn.")
@click.option("--threads", type=THREADS, default=1, show_default=True, help="Of both engines.")
@click.option(
    "--provider",
    type=Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where both engines run.",
)
@click.option(
    "--table-device",
    type=Choice(["cpu", "cuda"]),
    help="On CUDA: where BUNDLE's tables are; cpu wants layout ragged.  [default: cuda]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Per case, 20 runs at least; p99 is shown of 100 and more.",
)
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Latency over batch size.")
@common
def command(
    bundle: Path,
    source: str,
    batch: Any,
    ids: Any,
    threads: int,
    provider: Any,
    table_device: Any,
    seconds: float,
    plot: Path | None,
    common: Common,
) -> None:
    """Time BUNDLE, ONNX dense, PyTorch dense and PyTorch with the selection network, interleaved."""
    from amtl_export.bench.infer import InferConfig, bench_infer
    from amtl_export.report.plots import plot_inference
    from amtl_export.report.tables import inference
    from amtl_export.runtime.cuda import Cuda

    cuda = Cuda(tables=table_device) if table_device else None
    config = InferConfig(batch, ids, threads, provider, cuda, seconds, common.seed)
    result = bench_infer(bundle, source, config, note=common.note)
    common.result(result, lambda: inference(result))
    if plot:
        plot_inference(result, plot)
