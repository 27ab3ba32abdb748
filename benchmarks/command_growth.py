"""How the cost of each command grows with values, rows, fields, the length of lists, and D: seconds, memory, disk.

python benchmarks/command_growth.py --out benchmarks/results
python benchmarks/command_growth.py --axes fields,length --out benchmarks/results

Values grow in a user's module whose table is a mapped file (mapped.py); the other axes in data that is trained on
for one epoch. Memory is the peak of anonymous pages, which the system cannot take back. A plot appears beside the JSON.
Disk: seven of the largest tables, under TMPDIR.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from mapped import measured, through

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json
from amtl_export.report.plots import new_figure, save_figure

_CHUNK = 1_000_000


@dataclass(frozen=True)
class Size:
    """Of the data and the model.

    Attributes:
        values: of each field.
        rows: of the data.
        fields: that the model reads.
        length: of each row's list; 1 is a plain categorical field.
        dim: D.
    """

    values: int = 1000
    rows: int = 20_000
    fields: int = 1
    length: int = 1
    dim: int = 16


#: Axis → the size whose other sides stay, and the numbers on it.
AXES: dict[str, tuple[Size, tuple[int, ...]]] = {
    "values": (Size(), (100_000, 1_000_000, 10_000_000)),  # mapped.py goes on to 100,000,000
    "rows": (Size(), (100_000, 1_000_000, 10_000_000, 100_000_000)),
    "fields": (Size(), (8, 32, 128, 500)),
    "length": (Size(), (1, 10, 100, 1000)),
    "dim": (Size(values=100_000, rows=200_000), (8, 32, 128, 300)),
}
_KINDS = ("seconds", "anonymous_bytes", "bytes")
_COLOURS = {command: f"C{i}" for i, command in enumerate(("train", "freeze", "compress", "export", "validate"))}


def write_data(folder: Path, size: Size) -> None:
    """Values drawn uniformly, and clicks that know the first field's; a file a million rows."""
    folder.mkdir()
    schema = ['label = "y"', "[split]", 'rule = "random"']
    kind = "categorical" if size.length == 1 else "multi-valued"
    for i in range(size.fields):
        schema += ["[[field]]", f'name = "f{i}"', f'kind = "{kind}"', 'type = "int64"', "min_count = 1"]
    (folder / "schema.toml").write_text("\n".join(schema) + "\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    for first in range(0, size.rows, _CHUNK):
        rows = min(_CHUNK, size.rows - first)
        drawn = rng.integers(0, size.values, (size.fields, rows, size.length), dtype=np.int64)
        columns = {f"f{i}": own[:, 0] if size.length == 1 else own for i, own in enumerate(drawn)}
        clicks = rng.random(rows) < 0.2 + 0.6 * (drawn[0, :, 0] % 2)
        frame = pl.DataFrame({"y": clicks.astype(np.int8)} | columns)
        lists = [pl.col(name).arr.to_list() for name in columns if frame[name].dtype == pl.Array]
        frame.with_columns(lists).write_parquet(folder / f"rows-{first // _CHUNK:04}.parquet")


def trained(folder: Path, size: Size) -> list[dict[str, Any]]:
    """The commands from data to a proven bundle."""
    write_data(folder / "data", size)
    settings = f"--method fbe --dim {size.dim} --epochs 1 --hidden 8 --batch-size 8192 --threads 1".split()
    commands = [
        ("train", "--data", "data", *settings, "--out", "run"),
        ("compress", "run", "--dim-budget", "0.3", "--out", "small"),
        ("export", "small", "--out", "bundle", "--target", "portable"),
        ("validate", "bundle", "--run", "small"),
    ]
    made = {"train": "run", "compress": "small", "export": "bundle"}
    return [
        measured(folder, *words) | ({"bytes": _disk(folder / made[words[0]])} if words[0] in made else {})
        for words in commands
    ]


def _disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def case(axis: str, number: int) -> dict[str, Any]:
    """One point of an axis, in a folder of its own."""
    size = replace(AXES[axis][0], **{axis: number})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if axis == "values":
            found = through(folder, size.values, size.dim, 0.3)
            commands = [own for own in found["commands"] if "ragged-int8" not in own["command"]]
            next(own for own in commands if own["command"].startswith("export"))["bytes"] = found["model_bytes"][
                "portable"
            ]
        else:
            commands = trained(folder, size)
    return {"axis": axis, "number": number, "commands": commands}


def series(cases: list[dict[str, Any]], axis: str, kind: str) -> dict[str, list[tuple[int, float]]]:
    """Command → number on the axis and what it costs."""
    found: dict[str, list[tuple[int, float]]] = {}
    for own in (one for one in cases if one["axis"] == axis):
        for command in own["commands"]:
            if kind in command:
                found.setdefault(command["command"].split()[0], []).append((own["number"], command[kind]))
    return found


def exponents(cases: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The slope of log cost over log number between the two largest points, where what is fixed weighs least."""
    for axis in dict.fromkeys(own["axis"] for own in cases):
        for kind in _KINDS:
            for command, points in series(cases, axis, kind).items():
                if len(points) > 1:
                    (few, low), (many, high) = points[-2:]
                    slope = math.log(high / low) / math.log(many / few)
                    yield {"axis": axis, "of": kind, "command": command, "exponent": round(slope, 2)}


def draw(report: dict[str, Any], path: Path) -> None:
    """A column for each axis: seconds above, memory below."""
    cases = report["cases"]
    axes = list(dict.fromkeys(own["axis"] for own in cases))
    figure, panels = new_figure(len(axes), rows=2)
    units = {"seconds": ("seconds", 1), "anonymous_bytes": ("GiB of memory", 2**30)}
    for place, panel in enumerate(panels):
        axis, kind = axes[place % len(axes)], list(units)[place // len(axes)]
        unit, scale = units[kind]
        for command, points in series(cases, axis, kind).items():
            numbers, costs = zip(*((number, cost / scale) for number, cost in points), strict=True)
            panel.plot(numbers, costs, marker="o", color=_COLOURS[command], label=command)
        panel.set(xlabel={"dim": "D"}.get(axis, axis), xscale="log", ylabel=unit)
        panel.set(**({"yscale": "log", "ylim": (1, 120)} if kind == "seconds" else {"ylim": (0, None)}))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(visible=True, alpha=0.3)
    panels[0].legend(fontsize="small")
    panels[1].legend(fontsize="small")
    machine = report["machine"]
    figure.suptitle(f"What each command costs; {machine['cpu']}, {machine['cores']} cores, {report['date']}")
    save_figure(figure, path)


@click.command()
@click.option("--axes", default=",".join(AXES), show_default=True, help="Those that are measured.")
@click.option("--most", default=100_000_000, show_default=True, help="Leave out points above this.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(axes: str, most: int, out: Path, machine: str) -> None:
    """Measure and draw."""
    out.mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, Any]] = []
    report: dict[str, Any] = {"date": today(), "machine": describe_machine(), "cases": cases}
    for axis in axes.split(","):
        for number in (own for own in AXES[axis][1] if own <= most):
            click.echo(f"{axis} {number:,}")
            cases.append(case(axis, number))
            write_json(out / f"{today()}-growth-{machine}.json", report | {"exponents": list(exponents(cases))})
    draw(report, out / f"{today()}-growth-{machine}.png")


if __name__ == "__main__":
    main()
