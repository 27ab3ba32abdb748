"""The README's picture: a compressed model's bytes and latency against ONNX dense, from a committed result.

python benchmarks/chart.py benchmarks/results/2026-11-27-ml-1m-d64-dnn-compressed-cpu2.json docs/savings.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import click

#: Subject of the result → what it is called, in the order of the bars.
SUBJECTS = {
    "onnx-dense": "ONNX dense, fp32",
    "onnx-dynamic-int8": "ONNX Runtime dynamic int8",
    "portable": "compressed, any ONNX Runtime",
    "native": "compressed, native operators",
    "native-layer-int8": "native, int8",
}
BATCH, IDS = 1024, "zipf"


class Bar(NamedTuple):
    """One subject.

    Attributes:
        name: as shown.
        bytes: of its tables.
        p50_us: of a batch.
        auc: on the test split; None where it was not measured.
    """

    name: str
    bytes: int
    p50_us: float
    auc: float | None


def bars(result: dict[str, Any]) -> list[Bar]:
    """What is drawn."""
    tables, verdicts = result["tables"], result["verdicts"]
    dense = tables["portable"]["bytes_dense"]
    cases = {case["subject"]: case for case in result["cases"] if case["batch"] == BATCH and case["ids"] == IDS}
    auc = {name: verdicts[name]["auc_onnx"] for name in verdicts} | {"onnx-dense": verdicts["portable"]["auc_original"]}
    return [
        Bar(shown, tables[name]["bytes_table"] if name in tables else dense, cases[name]["p50_us"], auc.get(name))
        for name, shown in SUBJECTS.items()
    ]


def label(value: float, first: float, unit: str) -> str:
    """A bar's number, and what part of the first it is."""
    shown = f"{value / 1e6:.2f} MB" if unit == "bytes" else f"{value:,.0f} µs"
    return shown if value == first else f"{shown} ({value / first:.2f})"


@click.command()
@click.argument("result", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
def main(result: Path, picture: Path) -> None:
    """Draw RESULT as PICTURE, an SVG whose texts are texts."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "amtl-export", "font.family": "sans-serif"}
    from matplotlib import pyplot as plt

    values = json.loads(result.read_text(encoding="utf-8"))
    drawn = bars(values)
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.0), sharey=True, layout="constrained")
    figure.patch.set_facecolor("white")
    names = [bar.name + ("" if bar.auc is None else f"\nAUC {bar.auc:.4f}") for bar in drawn]
    colors = ["#8a8f98", "#8a8f98", "#7fb3d5", "#2e86c1", "#1b4f72"]
    for panel, key, title in zip(
        axes, ("bytes", "p50_us"), ("bytes of all tables", f"p50 of {BATCH:,} rows"), strict=True
    ):
        numbers = [getattr(bar, key) for bar in drawn]
        panel.barh(names, numbers, color=colors)
        for place, number in enumerate(numbers):
            panel.text(number, place, " " + label(number, numbers[0], key), va="center", fontsize=9)
        panel.set_title(title, fontsize=10)
        panel.set_xlim(0, max(numbers) * 1.25)
        panel.set_xticks([])
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.tick_params(labelsize=9)
    axes[0].invert_yaxis()
    figure.suptitle(f"MovieLens-1M, DNN, D = 64, one thread of {values['machine']['cpu']}", fontsize=10)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
