"""Spoil bundles and runs, run every command that opens them, kill processes; counts as JSON.

python benchmarks/attack --out benchmarks/results
python benchmarks/attack --out tried --bundles 20 --runs 20 --stopped 5 --tampered 28 --kills 5
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json
from attack import folders, kills, targets

#: What commands import: the processes of an attack are forks of this one.
_IMPORTED = (
    "cli.train", "cli.compress", "cli.freeze", "cli.export", "cli.validate", "cli.bench_infer", "cli.package",
    "cli.inspect", "validation.validate", "bench.infer", "serving.package", "report.inspection", "report.tables",
    "compression.compress", "training.loop", "report.plots", "cli.terminal",
)  # fmt: skip


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the JSON file.")
@click.option("--machine", default="cpu2", show_default=True, help="Ends the file's name.")
@click.option("--bundles", default=1000, show_default=True)
@click.option("--runs", default=800, show_default=True)
@click.option("--stopped", default=200, show_default=True, help="Unfinished trainings.")
@click.option("--tampered", default=336, show_default=True, help="Bundles that validate must not pass.")
@click.option("--kill", "killed", default=100, show_default=True)
@click.option("--minutes", default=600.0, show_default=True, help="Each of the five ends after a fifth of this.")
@click.option("--seed", default=0, show_default=True)
def main(
    out: Path,
    machine: str,
    bundles: int,
    runs: int,
    stopped: int,
    tampered: int,
    killed: int,
    minutes: float,
    seed: int,
) -> None:
    """Attack."""
    torch.set_num_threads(1)
    for name in _IMPORTED:
        importlib.import_module(f"amtl_export.{name}")
    started = time.monotonic()
    stages = {"tampered": tampered, "bundles": bundles, "runs": runs, "stopped": stopped, "kills": killed}
    attacks = {name: getattr(folders, name) for name in stages if name != "kills"} | {"kills": kills.attack}
    result: dict[str, Any] = {"date": today(), "machine": describe_machine(), "seed": seed, "asked": stages}
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{today()}-attack-{machine}.json"
    with tempfile.TemporaryDirectory() as place:
        made = targets.make(Path(place) / "sound")
        for name, count in stages.items():
            ends = time.monotonic() + minutes * 60 / len(stages)
            tally = attacks[name](
                made,
                Path(place) / name,
                count,
                random.Random(f"{seed} {name}"),
                lambda ends=ends: time.monotonic() > ends,
            )
            result[name] = tally.to_json()
            bad = {key: value for key, value in result[name].items() if isinstance(value, int)}
            click.echo(f"{name}: {bad}")
            result["minutes"] = round((time.monotonic() - started) / 60, 1)
            write_json(file, result)
    sys.exit(any(result[name]["bad"] for name in stages))


main()
