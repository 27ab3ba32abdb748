"""Latency over batch, and how near lookups come to a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amtl_export.report.plots import new_figure, save_figure

#: Of the whole models: with value types, copies and CUDA graphs left out there are few enough to tell apart.
DRAWN = ("onnx-dense", "onnx-paged", "onnx-ragged", "onnx-ragged-int8", "torch-compile", "torch-eager")


def plot(result: dict[str, Any], file: Path) -> None:
    """Draw what was measured, as a PNG beside the JSON; nothing of stages that did not run."""
    panels = [draw for draw, stage in ((_models, "models"), (_lookups, "lookups")) if result.get(stage)]
    if not panels:
        return
    figure, axes = new_figure(len(panels))
    for draw, own in zip(panels, axes, strict=True):
        draw(own, result)
        own.grid(alpha=0.3)
        own.legend(fontsize="x-small")
    save_figure(figure, file.with_suffix(".png"))


def _models(axes: Any, result: dict[str, Any]) -> None:
    cases = result["models"]["cases"]
    for subject in DRAWN:
        own = [case for case in cases if case["subject"] == subject]
        axes.plot([c["batch"] for c in own], [c["p50_us"] for c in own], marker=".", label=subject)
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="µs, p50", title="whole model")


def _lookups(axes: Any, result: dict[str, Any]) -> None:
    cases = [case for case in result["lookups"]["cases"] if case["ids"] == "zipf"]
    for subject in dict.fromkeys(case["subject"] for case in cases):
        own = [case for case in cases if case["subject"] == subject]
        axes.plot([c["batch"] for c in own], [c["of_copy"] for c in own], marker=".", label=subject)
    axes.set(xscale="log", xlabel="batch, 8 fields, Zipf ids", ylabel="bytes moved, of a copy's", title="lookups alone")
