"""Terminal tables and charts, as rich renderables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from amtl_export.doctor import Check
    from amtl_export.report.comparison import Comparison
    from amtl_export.report.inspection import FieldInspection, Inspection
    from amtl_export.validation.verdict import Verdict

#: Fewer have no hundredth part.
_RUNS_OF_P99 = 100

_BLOCKS = " ▁▂▃▄▅▆▇█"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> Table:
    """A table whose first `left` columns are texts and the others numbers."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index < left else "right")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return drawn


def size(count: float) -> str:
    """Bytes for people: 1.2 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def bars(values: Sequence[float], top: float) -> str:
    """One block character for each value."""
    return "".join(_BLOCKS[min(8, round(8 * value / top))] if top else " " for value in values)


def bundle_report(report: Mapping[str, Any], path: str) -> RenderableType:
    """For `export`: what was written."""
    width = f", pages of {report['page_width']}" if report["page_width"] else ""
    return Text(
        f"{path}: layout {report['layout']}{width}, {report['dtype']}, table {size(report['bytes_table'])} "
        f"of {size(report['bytes_dense'])} dense ({report['bytes_ratio']:.2f}x), "
        f"{sum(report['ops'].values())} nodes, largest logit difference on samples "
        f"{max(report['parity_on_samples'].values()):.1e}"
    )


def of_target(gives: Mapping[str, Any]) -> str:
    """For `export` and `compress`: what a target would give, in a line; `tables.plan.target_gives` finds it."""
    if gives["problem"]:
        return f"nothing: {gives['problem']}"
    return (
        f"layout {gives['layout']}, {gives['dtype']}, table {size(gives['bytes_table'])} "
        f"({gives['bytes_ratio']:.2f}x), lookups expected at {gives['relative_time']:.1f}x of dense"
    )


def load_report(result: Mapping[str, Any]) -> RenderableType:
    """For `bench server`: every load, and the verdict."""
    rows = [
        (
            case["scenario"],
            "-" if case["target_qps"] is None else f"{case['target_qps']:,.0f}",
            f"{case['qps']:,.0f}",
            *(f"{case[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{case['requests']:,}",
            f"{case['processors']:.2f}" if "processors" in case else "-",
            size(int(case["pss_bytes"])) if "pss_bytes" in case else "-",
        )
        for case in result["cases"]
    ]
    columns = ("scenario", "target/s", "answered/s", "p50 ms", "p90 ms", "p99 ms", "requests", "processors", "memory")
    settings, best = result["settings"], result["max_qps"]
    rate = f"{best or settings['qps'] or 0:,.0f} requests of {settings['batch']} rows a second"
    level = f"p99 of {settings['slo_ms']:g} ms"
    missed = f"{rate} miss a {level}" if settings["qps"] else f"no rate that was tried holds a {level}"
    verdict = f"{rate} hold a {level}" if best else missed
    return Group(table(result["bundle"], columns, rows), Text("\n".join([verdict, *_soak(result)])))


def _soak(result: Mapping[str, Any]) -> list[str]:
    if not (soak := result.get("soak")):
        return []
    lines = [f"soak: {soak['requests']:,} requests, all right, p99 {soak['p99_ms']:.2f} ms"]
    if "slope_bytes_per_minute" in soak:
        first, last = (size(soak["pss_bytes"][i]) for i in (0, -1))
        slope = soak["slope_bytes_per_minute"] / 1e6
        lines.append(f"memory {first} at first, {last} at last, slope {slope:+.2f} MB a minute")
    return lines


def packaged(version: Mapping[str, Any], backend: str) -> RenderableType:
    """For `package`: where the version is."""
    name = Path(version["model"]).name
    return Text(f"{version['path']}: version {version['version']} of {name}, backend {backend}")


def _layout_and_widths(plan: Mapping[str, Any]) -> str:
    widths = plan["block_widths"] or [plan["page_width"]]
    return f"{plan['layout']} of {', '.join(map(str, widths))}" if widths[0] else str(plan["layout"])


def plan_report(plans: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """What each table would become."""
    rows = [
        (
            path,
            _layout_and_widths(plan),
            plan["dtype"],
            f"fused ({plan['multiplied']:.2f}x)" if plan["fused"] else "plain",
            f"{plan['rows']:,} × {plan['dim']}",
            f"{plan['avg_dim']:.1f} ({plan['looked_up_dim']:.1f})",
            f"{size(plan['bytes'])} ({plan['bytes'] / max(plan['bytes_dense'], 1):.2f}x)",
            f"{plan['relative_time']:.1f}x",
            plan["reason"],
        )
        for path, plan in plans.items()
    ]
    columns = (
        "table",
        "layout",
        "values",
        "first layer",
        "rows × D",
        "mean dims (looked up)",
        "bytes",
        "lookup",
        "why",
    )
    return table("Plan; bytes, lookup time and products against dense fp32", columns, rows, left=4)


def verdict(found: Verdict) -> RenderableType:
    """For `validate`."""
    weighted = ", weighted" if found.weighted else ""
    rows = [
        ("rows bit-equal", f"{shown(found.rows_bit_equal, ',')} of {shown(found.rows_checked, ',')}"),
        ("out-of-range ids", shown(found.hostile_ids_checked, ",")),
        *(
            [("raw rows, ids of training", f"{found.raw_rows_equal or 0:,} of {found.raw_rows_checked:,}")]
            if found.raw_rows_checked is not None
            else []
        ),
        *_scores(found),
        ("largest |Δlogit|", shown(found.max_abs_logit_diff, ".1e")),
        ("largest difference, relative", shown(found.max_relative_diff, ".1e")),
        ("a batch of none / of one", f"{shown(found.batch_of_none)} / {shown(found.batch_of_one)}"),
        ("examples alone as together", {None: "-", True: "yes", False: "no"}[found.examples_independent]),
        *((f"ids outside, {name}", how) for name, how in (found.out_of_range or {}).items()),
        (
            "selection nodes, initializers left",
            f"{shown(found.selector_nodes)}, {shown(found.selector_initializers)}",
        ),
        ("table bytes against dense", shown(found.bytes_ratio, ".3f")),
        ("nodes by provider", _counts(found.nodes_by_provider)),
    ]
    parts: list[RenderableType] = [
        table(f"{found.bundle} against {found.run}, {found.split} split{weighted}", ("check", "found"), rows),
        Text(found.verdict.upper(), style="bold red" if found.problems else "bold green"),
    ]
    parts += [Text(f"  {line}") for line in (*found.problems, *found.notes)]
    return Group(*parts)


def _scores(found: Verdict) -> list[tuple[str, str]]:
    """Of labelled examples, what the scores are worth; a note says where there are none."""
    if found.auc_torch is None and found.auc_onnx is None:
        return []
    return [
        ("AUC PyTorch", shown(found.auc_torch, ".6f")),
        ("AUC ONNX Runtime", shown(found.auc_onnx, ".6f")),
        ("|ΔAUC|", shown(found.abs_delta_auc, ".1e")),
        *_within_groups(found),
        *_other_outputs(found),
        *_against_original(found),
        ("logloss PyTorch / ONNX", f"{shown(found.logloss_torch, '.6f')} / {shown(found.logloss_onnx, '.6f')}"),
        ("rank flips", shown(found.rank_flips, ",")),
    ]


def _other_outputs(found: Verdict) -> list[tuple[str, str]]:
    """Of several outputs that labels judge, those after the main one."""
    return [
        (
            f"AUC of {name}, PyTorch / ONNX",
            f"{shown(own.auc_torch, '.6f')} / {shown(own.auc_onnx, '.6f')}",
        )
        for name, own in list(found.outputs.items())[1:]
    ]


def _within_groups(found: Verdict) -> list[tuple[str, str]]:
    """Of examples with groups, group AUC."""
    if found.gauc_groups is None:
        return []
    pair = f"{shown(found.gauc_torch, '.6f')} / {shown(found.gauc_onnx, '.6f')}"
    return [
        (f"GAUC PyTorch / ONNX, {found.gauc_groups:,} groups", pair),
        ("|ΔGAUC|", shown(found.abs_delta_gauc, ".1e")),
    ]


def _against_original(found: Verdict) -> list[tuple[str, str]]:
    """Of a compressed model's bundle, what compressing cost."""
    if found.auc_original is None:
        return []
    allowed = "" if found.max_auc_drop is None else f" (allowed on the valid split: {-found.max_auc_drop:.1e})"
    return [
        ("AUC before compressing", shown(found.auc_original, ".6f")),
        ("ΔAUC to that", f"{shown(found.delta_auc_original, '+.1e')}{allowed}"),
    ]


def shown(value: Any, form: str = "") -> str:
    """A value as `form` has it; a dash where there is none."""
    return "-" if value is None else format(value, form)


def _counts(values: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in values.items()) if values else "-"


def inference(result: Mapping[str, Any]) -> RenderableType:
    """For `bench infer`: p50 with the ratio to ONNX dense, p99 of as many runs as it takes, and QPS."""
    cases = result["cases"]
    base = {(c["batch"], c["ids"]): c["p50_us"] for c in cases if c["subject"] == "onnx-dense"}
    rows = []
    for c in cases:
        against = base.get((c["batch"], c["ids"]))
        ratio = f"{c['p50_us'] / against:.2f}" if against else "-"
        times = [f"{c[key]:,.1f}" for key in ("p50_us", "p95_us", "p99_us")]
        if c["runs"] < _RUNS_OF_P99:
            times[-1] = "-"
        tail = (f"{c['qps']:,.0f}", size(c["bytes"]), c["runs"])
        rows.append((c["subject"], c["ids"], c["batch"], times[0], ratio, *times[1:], *tail))
    columns = (
        "subject",
        "ids",
        "batch",
        "p50 µs",
        "of dense",
        "p95 µs",
        "p99 µs",
        "rows/s",
        "weights",
        "runs",
    )
    title = f"Inference, {result['threads']} thread(s), {result['provider']}, {result['machine']['cpu']}"
    return table(title, columns, rows, left=2)


def training(result: Mapping[str, Any]) -> RenderableType:
    """For `bench train`."""
    rows = []
    for case in result["cases"]:
        cells = [case["method"]]
        for measure in ("epoch", "inference_torch", "inference_onnx"):
            cells += [f"{case[f'{measure}_median_s']:.2f}", f"{case[f'{measure}_ratio']:.2f}"]
        rows.append((*cells, f"{case['examples_per_second']:,.0f}"))
    title = (
        f"{result['threads']} thread(s), batch {result['batch_size']}, D={result['dim']}, {result['data']}: "
        f"an epoch of {result['rows']:,} rows, inference over {result['inference_rows']:,}"
    )
    columns = ("method", "s/epoch", "ratio", "inference s, PyTorch", "ratio", "ONNX Runtime", "ratio", "examples/s")
    return table(title, columns, rows)


def inspection(inspected: Inspection) -> RenderableType:
    """For `inspect`."""
    origin = " ".join(f"{key}={value}" for key, value in inspected.origin.items())
    ratio = inspected.bytes_table / max(inspected.bytes_dense, 1)
    layout = f", layout {inspected.layout}" if inspected.layout else ""
    head = Text(
        f"{inspected.kind} {inspected.path}, by {' '.join(inspected.producer.values())}: {origin}{layout}\n"
        f"tables {size(inspected.bytes_table)} of {size(inspected.bytes_dense)} dense ({ratio:.2f}x)"
    )
    rows = [
        (
            f.name,
            "yes" if f.governed else "",
            _histogram(f.histogram[1:]),
            f"{f.vocab:,}",
            f.dim,
            f"{f.avg_dim:.1f}",
            f"{f.params_dense:,}",
            f"{f.params_kept:,}",
            size(f.bytes_dense),
            size(f.bytes_kept),
        )
        for f in inspected.fields
    ]
    columns = ("field", "governed", "dims 1..D", "vocab", "D", "mean dims", "params", "kept", "bytes", "kept")
    parts: list[RenderableType] = [head, table("Fields", columns, rows, left=3)]
    governed = [f for f in inspected.fields if f.governed and f.group_dims]
    if governed:
        parts.append(_groups(governed))
    if inspected.ops:
        parts.append(table("Nodes", ("operator", "count"), list(inspected.ops.items())))
    return Group(*parts)


def _histogram(counts: Sequence[int], width: int = 32) -> str:
    """A histogram in at most `width` characters."""
    step = -(-len(counts) // width)
    bins = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    return bars(bins, max(bins))


def _groups(fields: Sequence[FieldInspection]) -> Table:
    rows = [
        (
            f.name,
            bars(f.group_dims, f.dim),
            *(f"{dims:.1f} (×{count:,.0f})" for dims, count in zip(f.group_dims, f.group_counts, strict=True)),
        )
        for f in fields
    ]
    groups = [f"group {i}" for i in range(1, len(fields[0].group_dims) + 1)]
    return table("Mean dims by frequency group, rarest first (mean count)", ("field", "", *groups), rows, left=2)


def comparison(found: Comparison, first: str, second: str) -> RenderableType:
    """For `compare`."""
    rows = [
        (name, str(found.a.get(name, "-")), str(found.b.get(name, "-")), "differs" if name in found.differing else "")
        for name in (*found.a, *(name for name in found.b if name not in found.a))
    ]
    said = "a client of one can ask the other" if found.interchangeable else "a client of one cannot ask the other"
    return Group(table("bundles", ("", first, second, ""), rows, left=4), Text(said))


def environment(checks: Sequence[Check]) -> RenderableType:
    """For `doctor`."""
    rows = []
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("missing", style="yellow")
        rows.append((check.part, mark, check.found or ". ".join(filter(None, (check.cost, check.fix))) + "."))
    return table("Environment", ("part", "", "found, or what it costs and the fix"), rows, left=3)
