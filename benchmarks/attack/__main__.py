"""Spoil bundles and runs, run every command that opens them, kill processes, attack a server; counts as JSON.

python benchmarks/attack --out benchmarks/results
python benchmarks/attack --out tried --bundles 20 --runs 20 --stopped 5 --experiments 5 --tampered 28 --kills 5
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["POLARS_MAX_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import read_json, write_json
from attack import folders, kills, places, servers, targets, warm
from attack.lanes import Plan, share

#: Stage → what makes its cases.
_STAGES = {
    "tampered": folders.tampered,
    "bundles": folders.bundles,
    "runs": folders.runs,
    "stopped": folders.stopped,
    "experiments": folders.experiments,
    "places": places.cases,
    "kills": kills.cases,
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the JSON file.")
@click.option("--machine", default="cpu2", show_default=True, help="Ends the file's name.")
@click.option("--tampered", default=336, show_default=True, help="Bundles that validate must not pass.")
@click.option("--bundles", default=700, show_default=True)
@click.option("--runs", default=600, show_default=True, help="And frozen folders.")
@click.option("--stopped", default=500, show_default=True, help="Unfinished trainings.")
@click.option("--experiments", default=200, show_default=True)
@click.option("--places", default=60, show_default=True, help="Full disks, folders to read alone, names, links.")
@click.option("--kills", default=100, show_default=True)
@click.option("--servers/--no-servers", "serve", default=True, show_default=True, help="Where a Triton is installed.")
@click.option("--minutes", default=600.0, show_default=True, help="Each stage ends after its part of this.")
@click.option("--lanes", default=2, show_default=True, help="Processes at a time.")
@click.option("--first", default=0, show_default=True, help="Number of the first case: its draw follows from it.")
@click.option("--seed", default=0, show_default=True)
@click.option("--more/--anew", default=False, help="Keep the stages of today's file that are not asked for.")
def main(
    out: Path, machine: str, serve: bool, minutes: float, lanes: int, first: int, seed: int, more: bool, **counts: int
) -> None:
    """Attack."""
    asked = {name: counts[name] for name in _STAGES if counts[name]}
    warm.warm()
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{today()}-attack-{machine}.json"
    result: dict[str, Any] = read_json(file) if more and file.is_file() else {}
    result |= {"date": today(), "machine": describe_machine(), "seed": seed}
    result["asked"] = result.get("asked", {}) | asked
    with tempfile.TemporaryDirectory(prefix="attack-") as place:
        Path(place).chmod(0o755)
        nursery = warm.Nursery(Path(place))
        try:
            made = targets.make(Path(place) / "sound")
            for name, count in asked.items():
                started = time.monotonic()
                plan = Plan(name, count, seed, lanes, minutes / len(asked), Path(place) / name, first)
                tally = share(plan, _STAGES[name](made))
                result[name] = tally.to_json() | {"minutes": round((time.monotonic() - started) / 60, 1)}
                click.echo(f"{name}: { {key: value for key, value in result[name].items() if isinstance(value, int)} }")
                write_json(file, result)
            if serve and servers.installed():
                result["servers"] = servers.attack(made, Path(place) / "servers")
                write_json(file, result)
        finally:
            nursery.close()
    sys.exit(any(result[name]["bad"] for name in asked) or bool(result.get("servers", {}).get("bad")))


main()
