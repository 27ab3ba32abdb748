"""PNG plots; matplotlib is the extra `plot`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amtl_export.errors import EnvironmentLacks, InputError, os_errors
from amtl_export.files import refuse_inside, whole_file
from amtl_export.report.inspection import Inspection


def new_figure(columns: int, rows: int = 1) -> tuple[Any, Any]:
    """A figure without a display, and its axes, row after row.

    Raises:
        EnvironmentLacks: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EnvironmentLacks("plots need matplotlib", fix="pip install 'amtl-export[plot]'") from None
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG.

    Raises:
        InputError: the file is not a .png.
    """
    _check_name(path)
    with os_errors("writing the plot", path), whole_file(path) as draft:
        figure.savefig(draft, dpi=150, format="png")


def check_plot(path: Path) -> None:
    """Refuse what could not be plotted, before any work is done.

    Raises:
        EnvironmentLacks: matplotlib is missing.
        InputError: the file is not a .png, its folder is not there, or this tool made it.
    """
    _check_name(path)
    refuse_inside(path)
    if not path.absolute().parent.is_dir():
        raise InputError("the plot's folder is not there", where=path.parent, fix="make it first")
    new_figure(1)


def _check_name(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise InputError("plots are PNG files", found=str(path), fix="plot=NAME.png")


def plot_dims(found: Inspection, path: Path) -> None:
    """Mean dims by frequency group (the paper's Figure 3) and the dims histogram.

    Raises:
        EnvironmentLacks: matplotlib is missing.
        InputError: no governed field has seven values, or the file is not a .png.
    """
    fields = [f for f in found.fields if f.governed and f.group_dims]
    if not fields:
        raise InputError("nothing to plot", where=found.path, found="no governed field with seven values")
    figure, (left, right) = new_figure(2)
    for field in fields:
        left.plot(range(1, len(field.group_dims) + 1), field.group_dims, marker="o", label=field.name)
        right.step(range(1, field.dim + 1), field.histogram[1:], where="mid", label=field.name)
    left.set(xlabel="frequency group (rarest first)", ylabel="mean dims", ylim=(0, fields[0].dim))
    right.set(xlabel="dims", ylabel="ids")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)


def plot_load(result: Mapping[str, Any], path: Path) -> None:
    """Latency over the rate of requests, and the latency that was to hold.

    Raises:
        EnvironmentLacks: matplotlib is missing.
        InputError: the file is not a .png.
    """
    cases = sorted((case for case in result["cases"] if case["target_qps"]), key=lambda case: float(case["target_qps"]))
    figure, (axes,) = new_figure(1)
    for key in ("p50_ms", "p90_ms", "p99_ms"):
        axes.plot([case["target_qps"] for case in cases], [case[key] for case in cases], marker="o", label=key[:3])
    axes.axhline(result["settings"]["slo_ms"], linestyle="--", color="grey", label="to hold")
    axes.set(xlabel="requests a second", ylabel="ms from the scheduled time", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save_figure(figure, path)


def plot_inference(result: Mapping[str, Any], path: Path) -> None:
    """p50 latency over batch size, one panel for each id distribution.

    Raises:
        EnvironmentLacks: matplotlib is missing.
        InputError: the file is not a .png.
    """
    cases = result["cases"]
    distributions = list(dict.fromkeys(case["ids"] for case in cases))
    figure, panels = new_figure(len(distributions))
    for axes, distribution in zip(panels, distributions, strict=True):
        for subject in dict.fromkeys(case["subject"] for case in cases):
            timed = [c for c in cases if c["ids"] == distribution and c["subject"] == subject]
            batches, p50 = [c["batch"] for c in timed], [c["p50_us"] for c in timed]
            axes.plot(batches, p50, marker="o", label=subject)
            axes.fill_between(batches, p50, [c["p95_us"] for c in timed], alpha=0.12)
        axes.set(
            xscale="log", yscale="log", xlabel="batch", ylabel="µs: p50, shaded to p95", title=f"{distribution} ids"
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)


def check_curve(labelled: bool) -> None:
    """Refuse a curve of a model without AUC.

    Raises:
        InputError: it has no labelled examples.
    """
    if not labelled:
        raise InputError("nothing to plot", found="no labelled examples", fix="Source(…, batches=…)")


def plot_curve(report: Mapping[str, Any], path: Path) -> None:
    """Valid AUC against the bytes of the tables, of the cuts that `compress` tried; the chosen one is marked.

    Args:
        report: what `compress` found.
        path: of the PNG.

    Raises:
        EnvironmentLacks: matplotlib is missing.
        InputError: the model has no labelled examples, or the file is not a .png.
    """
    points = [own for own in report["curve"] if own["auc_valid"] is not None]
    check_curve(bool(points))
    figure, (axes,) = new_figure(1)
    axes.plot([p["bytes"] for p in points], [p["auc_valid"] for p in points], marker="o", label="cuts")
    chosen = next(p for p in points if p["chosen"])
    axes.plot(chosen["bytes"], chosen["auc_valid"], marker="*", markersize=14, linestyle="", label="chosen")
    axes.axhline(report["auc_valid_before"], linestyle="--", color="gray", label="before compressing")
    axes.set(xlabel="bytes of all tables, fp32", ylabel="valid AUC", xscale="log", title="AUC against bytes")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save_figure(figure, path)
