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

_BAR = 30


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
    _summarise(run, compressed, bundles, seconds)
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


def _summarise(run: Any, compressed: Any, bundles: dict[str, Any], seconds: float) -> None:
    any_verdict = next(iter(bundles.values()))["verdict"]
    rows = [
        ("test AUC of the trained model", f"{run['auc_test']:.4f}"),
        *((f"test AUC of the {name} bundle", f"{own['verdict']['auc_onnx']:.4f}") for name, own in bundles.items()),
        ("mean dims", f"{compressed['avg_dim_ratio']:.2f} D"),
        (
            "rows equal to PyTorch's, bit for bit",
            f"{any_verdict['rows_bit_equal']:,} of {any_verdict['rows_checked']:,}",
        ),
        ("out-of-range ids answered", f"{any_verdict['hostile_ids_checked']:,}"),
        ("verdict", ", ".join(own["verdict"]["verdict"] for own in bundles.values())),
        ("the whole demo", f"{seconds:.0f} s"),
    ]
    console = Console(highlight=False, width=120)
    click.echo()
    console.print(table("What was measured", ("", ""), rows))
    console.print(table("Against ONNX dense", ("", "", ""), list(_bars(bundles))))


def _bars(bundles: dict[str, Any]) -> Any:
    """Bytes and p50 as parts of the dense model's, each with its bar."""
    dense = next(iter(bundles.values()))["report"]["bytes_dense"]
    yield "table bytes", f"dense {size(dense)}", "█" * _BAR
    for name, own in bundles.items():
        yield "", f"{name} {size(own['report']['bytes_table'])}", _bar(own["report"]["bytes_ratio"])
    for batch in BATCHES:
        yield f"p50, batch {batch}", "dense", "█" * _BAR
        for name, own in bundles.items():
            p50 = {c["subject"]: c["p50_us"] for c in own["cases"] if c["batch"] == batch}
            ours = p50[f"onnx-{own['report']['layout']}".replace("dense", "narrow")]
            yield "", f"{name} {ours:,.0f} µs", _bar(ours / p50["onnx-dense"])


def _bar(ratio: float) -> str:
    return "█" * max(1, round(ratio * _BAR)) + f" {ratio:.2f}"


if __name__ == "__main__":
    main()
