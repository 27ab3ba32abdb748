"""What `compress` shows, as rich renderables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amtl_export.report.tables import shown, size, table


def compressed(report: Mapping[str, Any]) -> RenderableType:
    """For `compress`."""
    heads = ("field", "rows", "D", "dims", "longest", "rank", "kept of 1, 4, 16 numbers", "basis", "metric", "bytes")
    rows = [
        (
            name,
            f"{own['rows']:,}",
            own["dim"],
            f"{own['avg_dim_before']:.1f} → {own['avg_dim']:.1f}",
            own["longest"],
            f"{own['effective_rank']:.1f}",
            ", ".join(f"{own['energy'][min(k, own['dim']) - 1]:.3f}" for k in (1, 4, 16)),
            own["basis"],
            own["metric"],
            f"{size(own['bytes_before'])} → {size(own['bytes_after'])}",
        )
        for name, own in report["fields"].items()
    ]
    before, after = report["auc_valid_before"], report["auc_valid_after"]
    moved = report["answers_after_cut"]
    auc = "" if before is None else f"; valid AUC {before:.5f} → {after:.5f} ({after - before:+.1e})"
    auc += "".join(
        f"; {name} {own['auc_valid_before']:.5f} → {own['auc_valid_after']:.5f}"
        for name, own in list(report["outputs"].items())[1:]
    )
    lines = [
        f"tables: {size(report['bytes_before'])} → {size(report['bytes_after'])} "
        f"({report['bytes_after'] / report['bytes_before']:.3f}), mean dims {report['avg_dim_ratio']:.3f} D, "
        f"values {report['dtype']}{auc}",
        f"{moved['examples']:,} answers, {moved['std']:.2g} apart (std): moved by "
        f"{report['max_abs_logit_diff_before_cut']:.1e} at most before the cut, and by the cut by "
        f"{moved['mean_abs_diff']:.2g} on average and {moved['max_abs_diff']:.2g} at most",
        *(f"left as it is: {name} ({reason})" for name, reason in report["left"].items()),
    ]
    parts: list[RenderableType] = [table("principal order", heads, rows)]
    if len(report["placements"]) > 1:
        parts.append(_placements(report["placements"]))
    return Group(*parts, _curve(report["curve"]), *(Text(line) for line in lines))


def _placements(placements: Sequence[Mapping[str, Any]]) -> Table:
    heads = ("where the basis goes", "mean dims", "bytes", "of which projections", "multiply-adds", "valid AUC", "")
    rows = [
        (
            own["kind"],
            f"{own['avg_dim_ratio']:.3f} D, {own['dtype']}",
            f"{own['bytes']:,}",
            f"{own['projection_bytes']:,}",
            f"{own['projection_multiply_adds']:,}",
            shown(own["auc_valid"], ".5f"),
            "chosen" if own["chosen"] else "",
        )
        for own in placements
    ]
    return table("placements", heads, rows)


def _curve(points: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            f"{own['bytes']:,}",
            f"{own['avg_dim_ratio']:.3f} D",
            own["dtype"],
            shown(own["auc_valid"], ".5f"),
            "chosen" if own["chosen"] else "",
        )
        for own in points
    ]
    return table("cuts", ("bytes", "mean dims", "values", "valid AUC", ""), list(dict.fromkeys(rows)))
