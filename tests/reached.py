"""What of the package tests reach: `make coverage`. Rooms by what is left out, and the total, as a dated JSON.

python tests/reached.py --out benchmarks/results [PYTEST'S ARGUMENTS]

Processes that the tests start are counted too, but for those that are killed. Native code is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json

_SETTINGS = """[run]
branch = true
parallel = true
patch = subprocess
data_file = {folder}/data
source =
    amtl_export
    cli
    models
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
"""


def by_room(files: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines and branches of each folder of the package, and what of them was reached, the least first."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in files.items():
        parts, found = Path(name).parent.parts, file["summary"]
        room = next((part for part in parts if part != "amtl_export"), "single files")
        total = found["num_statements"] + found["num_branches"]
        for i, count in enumerate((total, found["covered_lines"] + found["covered_branches"])):
            rooms[room][i] += count
    lines = [
        {"room": room, "total": total, "reached": reached, "part": round(reached / total, 4)}
        for room, (total, reached) in rooms.items()
        if total
    ]
    return sorted(lines, key=lambda line: line["part"])


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(arguments: tuple[str, ...], out: Path, machine: str) -> None:
    """Run the tests and count."""
    with tempfile.TemporaryDirectory() as name:
        settings, found = Path(name) / "settings", Path(name) / "found.json"
        settings.write_text(_SETTINGS.format(folder=name), encoding="utf-8")
        environment = os.environ | {"COVERAGE_RCFILE": str(settings)}
        program = [sys.executable, "-m", "coverage"]
        tests = subprocess.run([*program, "run", "-m", "pytest", *arguments], env=environment, check=False)
        subprocess.run([*program, "combine", "--quiet"], env=environment, check=True)
        subprocess.run([*program, "json", "--quiet", "-o", str(found)], env=environment, check=True)
        counted = json.loads(found.read_text(encoding="utf-8"))
    rooms = by_room(counted["files"])
    part = sum(room["reached"] for room in rooms) / sum(room["total"] for room in rooms)
    for room in rooms:
        click.echo(f"{room['room']:14} {room['part']:7.1%} of {room['total']:,} lines and branches")
    click.echo(f"{'all':14} {part:7.1%}")
    report = {"date": today(), "machine": describe_machine(), "tests": list(arguments), "part": round(part, 4)}
    write_json(out / f"{today()}-coverage-{machine}.json", report | {"rooms": rooms})
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
