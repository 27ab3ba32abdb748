"""The main job on data made on the fly: train, compress, export, validate, time; what was measured at the end.

Every step is the command that a user would type; the summary is read from their --json files.

    python benchmarks/demo.py --out demo-out
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json
from amtl_export.native import library_path
from amtl_export.report.tables import size, table

DATA = "synthetic:rows=500000,values=5000"
MODEL = ("--method", "fbe", "--dim", "64", "--epochs", "4", "--lr", "0.003")
BATCHES = (1, 64, 1024)

#: Bundle → what `export` is asked for.
BUNDLES = {
    "portable": ("--target", "portable"),
    "native": ("--target", "native", "--dtype", "int8", "--layer-dtype", "int8"),
}

_BAR = 10


class Demo:
    """Runs commands and keeps what they measured.

    Args:
        out: folder for all that is made.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def step(self, why: str, *words: str) -> Any:
        """Run `amtl-export words…` in the folder; its JSON result."""
        click.secho(f"\n# {why}", bold=True)
        click.echo(f"$ amtl-export {' '.join(words)}")
        program = str(Path(sys.executable).with_name("amtl-export"))
        result = self._out / "result.json"
        done = subprocess.run([program, *words, "--json", result.name], cwd=self._out, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        return json.loads(result.read_text())


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--data", default=DATA, show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write what was measured, with date and machine."
)
def main(out: Path, data: str, json_path: Path | None) -> None:
    """Run the demo."""
    started = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    demo = Demo(out)
    run = demo.step(
        "a model, trained as always: every value keeps all dims", "train", "--data", data, *MODEL, "--out", "run"
    )
    compressed = demo.step(
        "its tables in principal order, cut where the AUC allows it; nothing is trained",
        "compress", "run", "--out", "compressed", "--all-fields", "--max-auc-drop", "1e-4", "--plot", "compress.png",
    )  # fmt: skip
    names = [name for name in BUNDLES if name == "portable" or library_path("cpu") is not None]
    if len(names) < len(BUNDLES):
        click.echo("\n# without the native operators: no compiler was there when this was installed")
    bundles = {name: _bundle(demo, name) for name in names}
    demo.step("what is in one", "inspect", "portable")
    (out / "result.json").unlink()
    seconds = time.perf_counter() - started
    _summarise(run, compressed, bundles, seconds, out)
    if json_path:
        where = {"date": today(), "machine": describe_machine(), "seconds": seconds}
        write_json(json_path, where | {"run": run, "compressed": compressed, "bundles": bundles})


def _bundle(demo: Demo, name: str) -> dict[str, Any]:
    """One bundle: written, proven, timed."""
    report = demo.step(f"for the target {name}", "export", "compressed", "--out", name, *BUNDLES[name])
    verdict = demo.step("does ONNX Runtime answer as PyTorch does?", "validate", name, "--run", "compressed")
    timed = demo.step(
        "and how fast?",
        "bench", "infer", name, "--vs", "compressed", "--ids", "zipf", "--batch", ",".join(map(str, BATCHES)),
    )  # fmt: skip
    return {"report": report, "verdict": verdict, "cases": timed["cases"], "threads": timed["threads"]}


def _summarise(run: Any, compressed: Any, bundles: dict[str, Any], seconds: float, out: Path) -> None:
    """In ten lines, what was won."""
    cases = {name: _p50s(own) for name, own in bundles.items()}
    first = next(iter(bundles.values()))
    dense = first["report"]["bytes_dense"]
    rows = [["dense", _bar(1, size(dense)), *(_bar(1, "") for _ in BATCHES), f"{run['auc_test']:.4f}"]]
    for name, own in bundles.items():
        ratio = own["report"]["bytes_ratio"]
        times = (_bar(ours / theirs, f"{ours / theirs:.2f}") for ours, theirs in cases[name].values())
        bytes_table = f"{size(own['report']['bytes_table'])}, {ratio:.2f}"
        rows.append([name, _bar(ratio, bytes_table), *times, f"{own['verdict']['auc_onnx']:.4f}"])
    verdicts = [own["verdict"] for own in bundles.values()]
    passed = ", ".join(f"{name} {own['verdict']['verdict']}" for name, own in bundles.items())
    headers = ["", "tables", *(f"p50 of {batch:,}" for batch in BATCHES), "test AUC"]
    console = Console(highlight=False, width=120)
    click.echo()
    console.print(table("What was won", headers, rows, left=len(headers)))
    for line in (
        f"proven: {passed}; {sum(own['rows_bit_equal'] for own in verdicts):,} of "
        f"{sum(own['rows_checked'] for own in verdicts):,} rows equal PyTorch's bit for bit",
        f"answered: {sum(own['hostile_ids_checked'] for own in verdicts):,} ids outside of their tables",
        f"trained: once; mean dims are {compressed['avg_dim_ratio']:.2f} D by principal order alone",
        f"timed: {first['threads']} thread, {first['cases'][0]['ids']} ids, as parts of ONNX dense in the same run",
        f"made in {seconds:.0f} s, in {out}: compress.png shows AUC against bytes",
    ):
        click.echo(line)


def _p50s(own: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """Batch → p50 of a bundle and of ONNX dense beside it, in µs."""
    subject = f"onnx-{own['report']['layout']}".replace("dense", "narrow")
    p50 = {(case["batch"], case["subject"]): case["p50_us"] for case in own["cases"]}
    return {batch: (p50[batch, subject], p50[batch, "onnx-dense"]) for batch in BATCHES}


def _bar(ratio: float, says: str) -> str:
    return f"{'█' * max(1, round(ratio * _BAR))} {says}"


if __name__ == "__main__":
    main()
