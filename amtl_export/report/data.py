"""What `data describe` and `train` show, as rich renderables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from amtl_export.data.describe import DataSummary
from amtl_export.report.tables import table
from amtl_export.scoring.score import ScoreReport


def _label_rates(summary: DataSummary) -> str:
    if not summary.label_rates:
        return f"label rate {summary.label_rate:.2%}"
    return "label rates " + ", ".join(f"{name} {rate:.2%}" for name, rate in summary.label_rates.items())


def data_summary(summary: DataSummary) -> RenderableType:
    """For `data describe`."""
    train, valid, test = summary.split_rows
    head = Text(
        f"{summary.data}: {summary.rows:,} rows ({train:,} train, {valid:,} valid, {test:,} test), "
        + _label_rates(summary)
        + ("" if summary.groups is None else f", {summary.groups:,} groups")
        + (", weighted in training and metrics" if summary.weighted else "")
    )
    rows = [
        (
            f.name,
            f.kind,
            "yes" if f.governed else "",
            f"{f.values:,}",
            f"{f.missing_ratio:.1%}",
            f"{f.once_ratio:.1%}",
            f"{f.top1pct_share:.1%}",
            "" if f.zipf_exponent is None else f"{f.zipf_exponent:.2f}",
        )
        for f in summary.fields
    ]
    columns = ("field", "kind", "governed", "values", "missing", "seen once", "top 1% hold", "Zipf")
    parts: list[RenderableType] = [head, table("Embedded fields", columns, rows, left=3)]
    if summary.numeric:
        numbers = [(n.name, f"{n.missing_ratio:.1%}", _number(n.minimum), _number(n.maximum)) for n in summary.numeric]
        parts.append(table("Numeric fields", ("field", "missing", "min", "max"), numbers))
    if summary.joins:
        joins = [(j.file, j.key, f"{j.unmatched:,}") for j in summary.joins]
        parts.append(table("Joins", ("file", "key", "rows without"), joins, left=2))
    return Group(*parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def metrics(values: Mapping[str, Any]) -> RenderableType:
    """For `train`: the end of a run."""
    rows = [(name, f["vocab"], f["dim"], f"{f['avg_dim']:.1f}") for name, f in values["fields"].items()]
    grouped = ""
    if "gauc_test" in values:
        gauc = "-" if values["gauc_test"] is None else f"{values['gauc_test']:.4f}"
        grouped = f"GAUC {gauc} ({values['gauc_groups_test']:,} groups), "
    others = "".join(f"AUC of {n} {own['auc_test']:.4f}, " for n, own in list(values.get("labels", {}).items())[1:])
    weighted = "weighted " if values.get("weighted") else ""
    head = Text(
        f"{values['method']}/{values['backbone']}: {weighted}test AUC {values['auc_test']:.4f}, "
        f"{grouped}logloss {values['logloss_test']:.4f}, {others}mean dims {values['avg_dim']:.1f} "
        f"({values['avg_dim_ratio']:.2f} D), best epoch {values['best_epoch']} of {values['epochs']}"
    )
    return Group(head, table("Fields", ("field", "vocab", "D", "mean dims"), rows))


def scored(report: ScoreReport) -> RenderableType:
    """For `score`."""
    again = f", {report.resumed} of them scored before" if report.resumed else ""
    return Text(
        f"{report.out}: {report.rows:,} rows of {report.files} file(s){again}, {', '.join(report.outputs)}; "
        f"{report.rows_per_second:,.0f} rows a second"
    )
