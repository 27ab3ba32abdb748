"""How the cost of a lookup grows with batch, V, D and mean dims: plots of what lookup.py measured.

python benchmarks/growth.py benchmarks/results/2026-11-24-lookup-cpu2.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from lookup import FIELDS, Point

from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.report.plots import new_figure, save_figure

SUBJECTS = ("onnx-dense", "onnx-paged", "onnx-ragged", "onnx-ragged-int8", "fbgemm-fp32", "torch-embedding")
Case = dict[str, Any]

#: Axis → what of a case is on it. Whatever is not on the axis is as on docs/benchmarks/lookups.md, 1,024 × 8 lookups.
AXES: dict[str, Callable[[Case], float]] = {
    "lookups": lambda case: float(case["batch"] * FIELDS),
    "V, rows of the table": lambda case: float(case["rows"]),
    "D, floats of a row": lambda case: float(case["dim"]),
    "mean dims / D": lambda case: float(case["mean"]),
}
_KEYS = ("batch", "rows", "dim", "mean")


def along(cases: list[Case], axis: int) -> list[Case]:
    """Cases that differ from the page's in one thing alone."""
    usual = {"batch": 1024, "rows": Point.rows, "dim": Point.dim, "mean": Point.mean}
    others = [key for i, key in enumerate(_KEYS) if i != axis]
    chosen = [case for case in cases if all(case[key] == usual[key] for key in others)]
    return [case for case in chosen if case["threads"] == 1 and case["ids"] == "uniform"]


@click.command()
@click.argument("measured", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(measured: Path) -> None:
    """Draw MEASURED, the JSON of lookup.py; a PNG of the same name appears beside it."""
    cases: list[Case] = read_json(measured)["cases"]
    figure, axes = new_figure(len(AXES))
    for number, (axis, (label, place)) in enumerate(zip(axes, AXES.items(), strict=True)):
        for subject in SUBJECTS:
            own = sorted((c for c in along(cases, number) if c["subject"] == subject), key=place)
            if not own and subject.startswith("onnx"):
                raise InputError("the file lacks measurements", where=measured, found=f"no {subject} by {label}")
            times = [case["p50_us"] * 1e3 / case["batch"] / FIELDS for case in own]
            axis.plot([place(case) for case in own], times, marker="o", label=subject)
        axis.set(xlabel=label, xscale="linear" if label.startswith("mean") else "log", yscale="log")
        axis.grid(visible=True, alpha=0.3)
    axes[0].set(ylabel="ns a lookup, median, uniform ids")
    axes[0].legend(fontsize="small")
    save_figure(figure, measured.with_suffix(".png"))


if __name__ == "__main__":
    main()
