"""What large vocabularies cost: CPU time and memory of encoding, memory of training, of export and of validate.

python benchmarks/scale.py --out benchmarks/results

Each measurement is a process of its own, with one thread. Memory is the peak resident set, files that are mapped
included: what is read of them counts although the system may take it back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from amtl_export.bench.machine import describe_machine, today
from amtl_export.data.encode import encode
from amtl_export.data.rows import read_rows
from amtl_export.data.source import Source, folder_source
from amtl_export.data.value_index import ValueIndex
from amtl_export.errors import ValidationFailed
from amtl_export.files import write_json

MIB = 1 << 20
_CHUNK, _PART = 262_144, 1_000_000
_SCHEMA = """label = "y"
[split]
{split}
[[field]]
name = "u"
kind = "categorical"
type = "{type}"
min_count = {least}
"""


def values_of(type: str, numbers: np.ndarray[Any, Any]) -> pl.Series:
    """The numbers as values of a field."""
    series = pl.Series("u", numbers)
    return series if type == "int64" else pl.select(pl.format("user_{}_of_the_world", series)).to_series()


_BY_COLUMN, _RANDOM = 'rule = "column"\ncolumn = "part"', 'rule = "random"'


def write_data(folder: Path, values: int, rows: int, type: str, split: str = _BY_COLUMN) -> None:
    """Rows of one field, first every value once, and by the column a thousand rows in the other splits."""
    folder.mkdir()
    (folder / "schema.toml").write_text(_SCHEMA.format(type=type, split=split, least=1), encoding="utf-8")
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.permutation(values), rng.integers(0, values, max(rows - values, 0) + 2000)])
    part = ["train"] * (len(numbers) - 2000) + ["valid"] * 1000 + ["test"] * 1000
    label = (numbers * 7919 % 97 < 40).astype(np.int8)
    frame = pl.DataFrame({"u": values_of(type, numbers), "y": label, "part": part})
    frame.write_parquet(folder / "rows.parquet")


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def peak_bytes() -> int:
    """Of this process, until now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValidationFailed("the system does not say how much memory a process has used")


def measure_encode(folder: Path, type: str, values: int, rows: int) -> dict[str, Any]:
    """An index alone; and what the second half of a Parquet file adds to `encode`, and to reading it as often."""
    known = values_of(type, np.arange(values))
    index = ValueIndex(known)
    build_s = cpu_s(lambda: index.positions(known.head(1)))
    asked = pl.Series(known[np.random.default_rng(1).integers(0, values, _CHUNK)].to_list())
    index.positions(asked)
    lookup_s = min(cpu_s(lambda: index.positions(asked)) for _ in range(5))
    write_data(folder / "data", values, 2 * rows, type, _RANDOM)
    source = folder_source(folder / "data")
    limits = (rows, 2 * rows)
    works: list[Callable[[], object]] = [partial(encode, source, folder / str(own), 0, own) for own in limits]
    works += [partial(_read_twice, source, own) for own in limits]
    seconds = [min(several) for several in zip(*([cpu_s(work) for work in works] for _ in range(5)), strict=True)]
    return {
        "type": type,
        "values": values,
        "rows": rows,
        "index_build_ns_per_value": build_s / values * 1e9,
        "lookup_ns_per_row": lookup_s / _CHUNK * 1e9,
        "encode_s": seconds[0],
        "encode_ns_per_further_row": (seconds[1] - seconds[0]) / rows * 1e9,
        "read_ns_per_further_row": (seconds[3] - seconds[2]) / rows * 1e9,
    }


def _read_twice(source: Source, limit: int) -> None:
    """What `encode` reads, of which a file's own coding of many values takes a part."""
    for _ in range(2):
        for _ in read_rows(source, 0, limit):
            continue


def measure_count(folder: Path, rows: int, limit: int) -> dict[str, Any]:
    """Peak of `encode` over texts of which two thirds occur once, with so many bytes of counted values in memory."""
    (folder / "data").mkdir()
    schema = _SCHEMA.format(type="string", split=_RANDOM, least=2)
    (folder / "data" / "schema.toml").write_text(schema, encoding="utf-8")
    rng = np.random.default_rng(0)
    step = next(own for own in range(int(rows * 0.618), rows) if np.gcd(own, rows) == 1)  # every number once, mixed
    for first in range(0, rows, _PART):
        own = np.arange(first, min(first + _PART, rows), dtype=np.int64) * step % rows
        often = own % 3 == 0
        numbers = np.where(often, rng.integers(0, rows // 30, len(own)), own + rows)
        frame = pl.DataFrame({"u": values_of("string", numbers), "y": (own * 7919 % 97 < 40).astype(np.int8)})
        frame.write_parquet(folder / "data" / f"rows-{first // _PART:03}.parquet")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = peak_bytes()
    begin = time.process_time()
    encoded = encode(folder_source(folder / "data"), folder / "encoded", 0, None, counted_bytes=limit)
    return {
        "rows": rows,
        "vocabulary": encoded.vocabularies["u"].size,
        "counted_bytes": limit,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
        "encode_s": time.process_time() - begin,
    }


def measure_train(folder: Path, values: int, dim: int) -> dict[str, Any]:
    """Peak at the last step of an epoch, when its checkpoint is written, and when the run stands."""
    import torch

    from amtl_export.training.config import TrainConfig
    from amtl_export.training.loop import train
    from amtl_export.training.observer import Silent

    found: dict[str, Any] = {}

    class Peaks(Silent):
        def step(self, loss: float, examples: int) -> None:  # noqa: ARG002 - an observer's
            if "checkpoint_bytes" not in found:
                found["steps_bytes"] = peak_bytes()

        def epoch_finished(self, record: dict[str, Any]) -> None:  # noqa: ARG002
            found["checkpoint_bytes"] = peak_bytes()

    torch.set_num_threads(1)
    write_data(folder / "data", values, 0, "int64")
    config = TrainConfig(data=str(folder / "data"), method="fbe", dim=dim, epochs=2, hidden=(8,), batch_size=65536)
    run = train(config, folder / "run", observer=Peaks())
    sizes = {"method": "fbe", "values": values, "dim": dim, "table_bytes": 4 * dim * values}
    found |= sizes | {"sparse": run.model_config.sparse, "end_bytes": peak_bytes()}
    return found | {"ratio": found["end_bytes"] / found["steps_bytes"]}


def measure_command(folder: Path, *words: str) -> int:
    """Peak bytes of a command."""
    program = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *words, "-q"]
    with subprocess.Popen(program, cwd=folder) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise ValidationFailed(f"{words[0]} failed", found=f"exit code {child.returncode}")
    return int(usage.ru_maxrss) * 1024


def measure_export(folder: Path, values: int, dim: int, layouts: Sequence[str]) -> list[dict[str, Any]]:
    """Export and validate in each layout, and freeze, above the same of a tiny table."""
    settings = f"--method fbe --dim {dim} --epochs 1 --hidden 8 --threads 1 --batch-size 65536".split()
    peaks: dict[str, list[int]] = {}
    for name, size in (("tiny", 1000), ("large", values)):
        write_data(folder / name, size, 0, "int64")
        measure_command(folder, "train", "--data", name, *settings, "--out", f"{name}-run")
        for layout in layouts:
            bundle = f"{name}-{layout}"
            words = ("export", f"{name}-run", "--out", bundle, "--layout", layout)
            peaks.setdefault(f"export {layout}", []).append(measure_command(folder, *words))
            peaks.setdefault(f"validate {layout}", []).append(
                measure_command(folder, "validate", bundle, "--run", f"{name}-run")
            )
        peaks.setdefault("freeze", []).append(
            measure_command(folder, "freeze", f"{name}-run", "--out", f"{name}-frozen")
        )
    table = 4 * dim * values
    return [
        {
            "command": command,
            "values": values,
            "dim": dim,
            "table_bytes": table,
            "peak_bytes": large,
            "tiny_peak_bytes": tiny,
            "tables_above_tiny": (large - tiny) / table,
        }
        for command, (tiny, large) in peaks.items()
    ]


def apart(what: str, *numbers: object) -> Any:
    """One measurement in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    program = [sys.executable, __file__, "--measure", what, *map(str, numbers)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValidationFailed(f"{what} could not be measured", found=done.stderr.strip()[-500:])
    return json.loads(done.stdout.splitlines()[-1])


def measured(what: str, numbers: tuple[str, ...]) -> Any:
    """Do what `apart` asks for."""
    with tempfile.TemporaryDirectory() as folder:
        if what == "encode":
            return measure_encode(Path(folder), numbers[0], int(numbers[1]), int(numbers[2]))
        if what == "count":
            return measure_count(Path(folder), int(numbers[0]), int(numbers[1]))
        values, dim = int(numbers[0]), int(numbers[1])
        if what == "train":
            return measure_train(Path(folder), values, dim)
        return measure_export(Path(folder), values, dim, numbers[2:])


@click.command()
@click.argument("numbers", nargs=-1)
@click.option("--measure", hidden=True, type=click.Choice(["encode", "count", "train", "export"]))
@click.option("--values", default="10000,100000,1000000", show_default=True, help="Vocabularies that are encoded with.")
@click.option("--rows", default=10_000_000, show_default=True, help="Rows that are encoded, and then as many more.")
@click.option("--count-rows", default=30_000_000, show_default=True, help="Of texts that mostly occur once.")
@click.option("--train-values", default=5_000_000, show_default=True, help="Rows of the table that is trained, D = 16.")
@click.option("--export-values", default=500_000, show_default=True, help="Of the one that is exported, D = 64.")
@click.option("--layouts", default="dense,paged,ragged", show_default=True, help="Of exports.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(
    numbers: tuple[str, ...],
    measure: str | None,
    values: str,
    rows: int,
    count_rows: int,
    train_values: int,
    export_values: int,
    layouts: str,
    out: Path,
    machine: str,
) -> None:
    """Measure encoding, training and export."""
    if measure:
        click.echo(json.dumps(measured(measure, numbers)))
        return
    encoded = [apart("encode", type, int(size), rows) for type in ("int64", "string") for size in values.split(",")]
    for case in encoded:
        click.echo(
            f"{case['type']}, {case['values']:,} values: {case['lookup_ns_per_row']:.0f} ns a row looked up, "
            f"{case['encode_ns_per_further_row']:.0f} read, counted and encoded"
        )
    counted = [apart("count", count_rows, limit) for limit in (1 << 50, 512 * MIB, 128 * MIB)]
    for case in counted:
        click.echo(f"counted with {case['counted_bytes']:,} bytes: peak {case['peak_bytes'] / MIB:,.0f} MiB")
    trained = apart("train", train_values, 16)
    click.echo(f"train: {trained['ratio']:.2f} of what steps alone hold, {trained['steps_bytes'] / MIB:,.0f} MiB")
    exported = apart("export", export_values, 64, *filter(None, layouts.split(",")))
    for case in exported:
        click.echo(f"{case['command']}: {case['tables_above_tiny']:.1f} tables above a tiny one")
    out.mkdir(parents=True, exist_ok=True)
    report = {"date": today(), "machine": describe_machine(), "threads": 1}
    report |= {"encode": encoded, "count": counted, "train": trained, "export": exported}
    write_json(out / f"{today()}-scale-{machine}.json", report)


if __name__ == "__main__":
    main()
