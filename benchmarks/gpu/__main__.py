"""Everything that a GPU is asked: parity, lookups, whole models, training, tables on the CPU, tables past 2^31 numbers.

On a bare machine with a card, in under eight minutes; JSON and plots. docs/gpu.md says how to get there.

    python benchmarks/gpu --out benchmarks/results --machine h100
    python benchmarks/gpu --out tried --device cpu --rows 8000 --batch 1,64 --seconds 0.01 --past 100000
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from card import COPY_BYTES, Card
from goals import goals
from latency import compressed, lookups, models, tables_on_cpu
from parity import DATA, every_row, past, problems, trained
from planted import plant
from plots import plot

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.train import bench_train
from amtl_export.cli.types import IntList, TextList
from amtl_export.files import write_json
from amtl_export.training.config import TrainConfig

METHODS = ("fbe", "amtl", "aml", "mde", "autoemb")
STAGES = ("parity", "lookups", "models", "compressed", "training", "tables-on-cpu", "past")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="gpu", show_default=True, help="Short name in the file's name.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--stages", type=TextList(), default=",".join(STAGES), show_default=True)
@click.option("--rows", default=1_000_000, show_default=True, help="V of the planted table.")
@click.option("--batch", type=IntList(), default="1,16,64,256,1024,4096,16384,65536", show_default=True)
@click.option("--seconds", default=1.5, show_default=True, help="For each batch size.")
@click.option("--data", default=DATA, show_default=True, help="What is trained on, to be validated.")
@click.option(
    "--train-data", default="synthetic:rows=400000,values=20000", show_default=True, help="What training is timed on."
)
@click.option("--past", "numbers", default=1 << 31, show_default=True, help="Numbers of the tables of stage past.")
@click.option("--copy-bytes", default=COPY_BYTES, show_default=True, help="Of the buffer whose copy is timed.")
def main(
    out: Path,
    machine: str,
    device: Any,
    stages: tuple[str, ...],
    rows: int,
    batch: tuple[int, ...],
    seconds: float,
    data: str,
    train_data: str,
    numbers: int,
    copy_bytes: int,
) -> None:
    """Measure a card; exit code 1 if a stage failed or an answer was wrong."""
    if unknown := set(stages) - set(STAGES):
        raise click.UsageError(f"unknown stages: {', '.join(sorted(unknown))}")
    card = Card(device, copy_bytes)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    result: dict[str, Any] = {"date": today(), "machine": describe_machine(), "card": card.describe(), "rows": rows}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        began = time.monotonic()
        planted = plant(rows, folder)
        result["seconds"] = {"export": time.monotonic() - began}
        config = TrainConfig(data=train_data, dim=64, batch_size=4096)
        work: Mapping[str, Callable[[], Any]] = {
            "parity": lambda: {"trained": trained(card, folder, data), "planted": every_row(card, planted)},
            "lookups": lambda: lookups(card, rows, batch[-3:], folder / "lookups"),
            "models": lambda: models(card, planted, batch, seconds, compiled=device == "cuda"),
            "compressed": lambda: compressed(card, planted, batch, seconds, folder / "compressed-planted"),
            "training": lambda: bench_train(config, METHODS, epochs=3, device=device, note=click.echo),
            "tables-on-cpu": lambda: tables_on_cpu(planted, batch, seconds) if device == "cuda" else None,
            "past": lambda: past(card, numbers, folder),
        }
        wrong = []
        for stage in (name for name in STAGES if name in stages):
            click.echo(f"# {stage}")
            began = time.monotonic()
            try:
                result[stage] = work[stage]()
            except Exception as error:  # a lent card is not there again for the other stages
                traceback.print_exc()
                wrong.append(f"{stage}: {type(error).__name__}: {error}")
            result["seconds"][stage] = time.monotonic() - began
    if "parity" in result:
        wrong += problems(result["parity"]["trained"], result["parity"]["planted"])
    result |= {"problems": wrong, "goals": goals(result)}
    file = out / f"{today()}-gpu-{machine}.json"
    write_json(file, result)
    plot(result, file)
    for name, value in result["goals"].items():
        click.echo(f"{name}: {value}")
    click.echo("\n".join(["", *wrong]) if wrong else f"every answer is right; {file}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
