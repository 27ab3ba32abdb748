"""ML-1M: FBE against AMTL, and the AMTL bundle against what would be served instead.

Trains both methods with the committed settings, exports, validates, times, and writes
`<date>-ml-1m-<what>-<machine>.json` for each step.

    python benchmarks/infer_ml_1m.py --path FOLDER_OF_ML_1M --out benchmarks/results
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from amtl_export.bench.infer import InferConfig, bench_infer
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.train import bench_train
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.files import write_json
from amtl_export.freezing.frozen import freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent
from amtl_export.validation.validate import validate


class Lines(Silent):
    """A line an epoch."""

    def epoch_finished(self, record: dict[str, Any]) -> None:
        """Say how it goes."""
        click.echo(f"epoch {record['epoch']}: valid AUC {record['auc_valid']:.4f}, mean dims {record['avg_dim']:.2f}")


@click.command()
@click.option("--path", type=click.Path(path_type=Path), default=lambda: os.environ.get("AMTL_EXPORT_ML_1M"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the files' names.")
@click.option("--seconds", default=2.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--threads", default=1, show_default=True)
def main(path: Path | None, out: Path, machine: str, seconds: float, threads: int) -> None:
    """Run everything on ML-1M."""
    if path is None or not Path(path).is_dir():
        click.echo("skipped: no ML-1M; say --path FOLDER or set AMTL_EXPORT_ML_1M")
        sys.exit(0)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    config = TrainConfig(data="ml-1m", path=str(path))
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            method: train(replace(config, method=method), Path(folder) / method, observer=Lines())
            for method in ("fbe", "amtl")
        }
        result: dict[str, Any] = {"date": today(), "machine": describe_machine(), "threads": threads, "methods": {}}
        for method, run in runs.items():
            settings = {k: v for k, v in run.train.to_json().items() if k != "path"}
            result["methods"][method] = {"settings": settings, "metrics": run.metrics, "bundles": {}}
            for layout in ("dense", "paged"):
                bundle = export(freeze(run), Path(folder) / f"{method}-{layout}", ExportConfig(layout=layout))
                verdict = validate(bundle.path, run.path).to_json()
                result["methods"][method]["bundles"][layout] = verdict | {"bundle": bundle.path.name, "run": method}
                click.echo(f"{method} {layout}: {verdict['verdict']}, |ΔAUC| {verdict['abs_delta_auc']:.1e}")
        write_json(out / f"{today()}-ml-1m-parity-{machine}.json", result)
        if any(b["verdict"] != "pass" for m in result["methods"].values() for b in m["bundles"].values()):
            click.echo("a bundle failed validation")
            sys.exit(3)
        timed = bench_infer(
            Path(folder) / "amtl-paged",
            runs["amtl"].path,
            InferConfig(threads=threads, seconds=seconds),
            note=click.echo,
        )
        write_json(out / f"{today()}-ml-1m-infer-{machine}.json", timed)
        trained = bench_train(replace(config, batch_size=4096), ["fbe", "amtl"], epochs=5, note=click.echo)
        write_json(out / f"{today()}-ml-1m-train-{machine}.json", trained)


if __name__ == "__main__":
    main()
