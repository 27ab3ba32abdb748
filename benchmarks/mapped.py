"""A table of 1e8 rows through every command: seconds, and memory beyond files that are mapped.

python benchmarks/mapped.py --out benchmarks/results
python benchmarks/mapped.py --sizes 20000000x64 --more

The model is a user's: one table that is a mapped file, planted so that its ids matter by their rank, and a small one.
Memory is the peak of anonymous pages of a command and the processes that it starts: what a system cannot take back.
Disk: seven tables at most, under TMPDIR.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from amtl_export.bench.machine import describe_machine, today
from amtl_export.errors import ValidationFailed
from amtl_export.files import read_json, write_json

_CHUNK = 1 << 20

#: The user's file; V, D and the rows' file are written into it.
_MODEL = """
import torch
from torch import nn
import amtl_export

V, D, FILE = {V}, {D}, {file!r}


class Model(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.item = nn.Embedding(V, D, _weight=rows)
        self.country = nn.Embedding(50, D)
        self.hidden = nn.Sequential(nn.Linear(2 * D, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, item, country):
        return self.hidden(torch.cat([self.item(item), self.country(country)], 1))[:, 0]


def build():
    torch.manual_seed(0)
    rows = torch.from_file(FILE, shared=False, size=V * D, dtype=torch.float32).view(V, D)
    model, batches = Model(rows), []
    for _ in range(8):
        columns = {{"item": (torch.rand(2048) ** 6 * V).long(), "country": torch.randint(0, 50, (2048,))}}
        with torch.no_grad():
            labels = (torch.rand(2048) < torch.sigmoid(4 * model(**columns))).float()
        batches.append((columns, labels))
    example = {{name: values[:16] for name, values in batches[0][0].items()}}
    return amtl_export.Source(module=model.eval(), example=example, batches=batches)
"""


def write_rows(file: Path, V: int, D: int) -> None:
    """Rows in a turned basis whose energies fall, smaller for rarer ids."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((D, D)))[0] * (0.7 ** np.arange(D))[:, None]
    with file.open("wb") as out:
        for first in range(0, V, _CHUNK):
            rank = first + np.arange(min(_CHUNK, V - first))
            rows = rng.standard_normal((len(rank), D), dtype=np.float32) @ turned.astype(np.float32)
            (rows / np.sqrt(1 + rank / 1000).astype(np.float32)[:, None]).tofile(out)


def measured(folder: Path, *words: str) -> dict[str, Any]:
    """A command's seconds and peak bytes of anonymous memory."""
    program = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *words, "-q"]
    began, peak = time.monotonic(), 0
    with subprocess.Popen(program, cwd=folder) as child:
        while child.poll() is None:
            peak = max(peak, _anonymous(psutil.Process(child.pid)))
            time.sleep(0.01)
    if child.returncode:
        raise ValidationFailed(f"{words[0]} failed", found=f"exit code {child.returncode}")
    seconds = time.monotonic() - began
    click.echo(f"{' '.join(words)}: {seconds:.0f} s, {peak / 2**30:.2f} GiB")
    return {"command": " ".join(words), "seconds": round(seconds, 1), "anonymous_bytes": peak}


def _anonymous(process: psutil.Process) -> int:
    total = 0
    for own in (process, *process.children(recursive=True)):
        with contextlib.suppress(OSError, psutil.Error):  # it has ended
            for line in Path(f"/proc/{own.pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    return total


def through(folder: Path, V: int, D: int, budget: float) -> dict[str, Any]:
    """All commands over one model."""
    file = folder / "rows.f32"
    write_rows(file, V, D)
    (folder / "my_model.py").write_text(_MODEL.format(V=V, D=D, file=str(file)), encoding="utf-8")
    commands = [measured(folder, "freeze", "my_model.py:build", "--out", "frozen")]
    commands.append(measured(folder, "compress", "frozen", "--dim-budget", str(budget), "--out", "small"))
    shutil.rmtree(folder / "frozen")
    settings = {"ragged-int8": "--layout ragged --dtype int8 --target native", "portable": "--target portable"}
    size = {}
    for name, own in settings.items():
        commands.append(measured(folder, "export", "small", "--out", name, *own.split()))
        commands.append(measured(folder, "validate", name, "--run", "small"))
        size[name] = sum(own.stat().st_size for own in (folder / name).glob("model.onnx*"))
        shutil.rmtree(folder / name)
    peak = max(own["anonymous_bytes"] for own in commands)
    sizes = {"table_bytes": 4 * V * D, "dim_budget": budget, "model_bytes": size}
    return {"values": V, "dim": D} | sizes | {"anonymous_bytes": peak, "commands": commands}


@click.command()
@click.option("--sizes", default="100000000x16,20000000x64", show_default=True, help="Rows and dims of tables.")
@click.option("--budget", default=0.3, show_default=True, help="Mean dims of the cut, as a part of D.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--more/--anew", default=False, help="Keep the sizes of today's file that are not asked for.")
def main(sizes: str, budget: float, out: Path, machine: str, more: bool) -> None:
    """Measure."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{today()}-mapped-{machine}.json"
    cases = {f"{own['values']}x{own['dim']}": own for own in read_json(file)["cases"]} if more and file.exists() else {}
    for size in sizes.split(","):
        V, D = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            cases[size] = through(Path(folder), V, D, budget)
        report = {"date": today(), "machine": describe_machine(), "cases": list(cases.values())}
        write_json(file, report)


if __name__ == "__main__":
    main()
