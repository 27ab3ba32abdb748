"""Models of six libraries, each attached, exported, validated and compared in a process of its own.

python benchmarks/zoo/run.py --out benchmarks/results --docs docs/zoo.md
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from page import markdown
from reasons import REASONS
from registry import LIBRARIES, find, models

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json

HERE = Path(__file__)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--docs", type=click.Path(path_type=Path), help="Page to write.")
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--library", "chosen", multiple=True, type=click.Choice(list(LIBRARIES)), help="Only these.")
@click.option("--limit", default=180, show_default=True, help="Seconds a model may take.")
@click.option("--workers", default=1, show_default=True, help="Models at the same time, a process each.")
@click.option("--one", metavar="LIBRARY/NAME", help="This model, in this process; its case goes to --out, a file.")
def main(
    out: Path, docs: Path | None, machine: str, chosen: tuple[str, ...], limit: int, workers: int, one: str | None
) -> None:
    """Try every model of the zoo."""
    if one:
        alone(one, out)
        return
    libraries = chosen or tuple(LIBRARIES)
    keys = [model.key for library in libraries for model in models(library)]
    with ThreadPoolExecutor(workers) as pool:
        cases = list(pool.map(lambda key: shown(tried(key, limit)), keys))
    found = {library: version(library) for library in libraries}
    report = {"date": today(), "machine": describe_machine(), "libraries": found, "cases": cases}
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{today()}-zoo-{machine}.json"
    write_json(path, report)
    if docs:
        docs.write_text(markdown(report, path.as_posix()), encoding="utf-8")
    click.echo(f"{sum(case['right'] for case in cases)} of {len(cases)} right")


def alone(key: str, out: Path) -> None:
    """One model in this process, its case written before every stage."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    from check import check

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        check(find(key), Path(folder) / "bundle", lambda case: write_json(out, asdict(case) | {"right": case.right}))


def tried(key: str, limit: int) -> dict[str, Any]:
    """One model in a child process; if that ends, or is ended, its case is the stage it was in."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "case.json"
        command = [sys.executable, str(HERE), "--one", key, "--out", str(note)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=limit, check=False, text=True)
            end = f"the process ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
        except subprocess.TimeoutExpired:
            end = f"not done in {limit} s"
        library, _, name = key.partition("/")
        empty = {"library": library, "name": name, "stage": "build", "right": False, "error": None, "problems": None}
        case: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.exists() else empty
    if case["stage"] != "done" and not case["error"]:
        case["error"] = end
    if case["error"]:
        case["error"] = re.sub(r"/\S*/(?=[^/\s]+)", "", case["error"])  # where this machine keeps its files
    return case | {"reason": None if case["right"] else REASONS.get(key)}


def shown(case: dict[str, Any]) -> dict[str, Any]:
    """As it is, with a line for whoever waits."""
    far = case.get("max_abs_diff")
    said = "right" if case["right"] else f"{case['stage']}: {case['error'] or case['problems'] or ''}"
    click.echo(f"{case['library']:17} {case['name']:34} {said[:150]} {'' if far is None else f'{far:.1e}'}")
    return case


if __name__ == "__main__":
    main()
