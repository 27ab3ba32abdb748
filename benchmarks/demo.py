"""The main job on data made on the fly: train, freeze, export, validate, time; what was measured at the end.

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
from amtl_export.report.tables import size, table

DATA = "synthetic:rows=500000,values=5000"
MODEL = ("--dim", "32", "--epochs", "5", "--lr", "0.003")


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
    model = ("--data", data, *MODEL)
    started = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    demo = Demo(out)
    fbe = demo.step("the baseline: every value keeps all 32 dims", "train", *model, "--method", "fbe", "--out", "fbe")
    amtl = demo.step(
        "AMTL: each value of the large fields learns how many, a quarter of 32 on average",
        "train",
        *model,
        "--dim-budget",
        "0.25",
        "--out",
        "amtl",
    )
    report = demo.step("constants only, in pages, checked as they are written", "export", "amtl", "--out", "bundle")
    verdict = demo.step("does ONNX Runtime answer as PyTorch did?", "validate", "bundle", "--run", "amtl")
    demo.step("what is in it", "inspect", "bundle", "--plot", "dims.png")
    timed = demo.step(
        "and how fast?", "bench", "infer", "bundle", "--vs", "amtl", "--batch", "1,64,1024", "--ids", "zipf",
        "--plot", "latency.png",
    )  # fmt: skip
    (out / "result.json").unlink()
    seconds = time.perf_counter() - started
    _summarise(fbe, amtl, report, verdict, timed, seconds)
    if json_path:
        measured = {"fbe": fbe, "amtl": amtl, "report": report, "verdict": verdict, "cases": timed["cases"]}
        where = {"date": today(), "machine": describe_machine(), "threads": timed["threads"], "seconds": seconds}
        write_json(json_path, where | measured)


def _summarise(fbe: Any, amtl: Any, report: Any, verdict: Any, timed: Any, seconds: float) -> None:
    p50 = {(c["subject"], c["batch"]): c["p50_us"] for c in timed["cases"]}
    ours = f"onnx-{report['layout']}"
    rows = [
        ("test AUC, FBE with all dims", f"{fbe['auc_test']:.4f}"),
        ("test AUC, AMTL", f"{amtl['auc_test']:.4f}"),
        ("mean dims of the governed fields", f"{amtl['avg_dim']:.1f} of {amtl['fields']['user']['dim']}"),
        ("embedding table", f"{size(report['bytes_table'])} of {size(report['bytes_dense'])}"),
        ("rows equal to PyTorch's, bit for bit", f"{verdict['rows_bit_equal']:,} of {verdict['rows_checked']:,}"),
        ("out-of-range ids answered", f"{verdict['hostile_ids_checked']:,}"),
        ("|ΔAUC| against PyTorch", f"{verdict['abs_delta_auc']:.1e}"),
        ("verdict", verdict["verdict"]),
    ]
    for batch in (1, 64, 1024):
        dense, own = p50["onnx-dense", batch], p50[ours, batch]
        masked = p50["torch-masked", batch]
        times = f"{own:,.0f} µs: {own / dense:.2f} of ONNX dense, {own / masked:.2f} of PyTorch with selection"
        rows.append((f"p50, batch {batch}", times))
    rows.append(("the whole demo", f"{seconds:.0f} s"))
    click.echo()
    Console(highlight=False, width=120).print(table("What was measured", ("", ""), rows))


if __name__ == "__main__":
    main()
