"""An experiment's Markdown table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amtl_export.report.plots import new_figure, save_figure


def markdown(summary: Mapping[str, Any]) -> str:
    """The table, with mean ± standard deviation over seeds."""
    settings = summary["settings"]
    backbone = "" if any("backbone" in a["changes"] for a in summary["arms"]) else f"backbone {settings['backbone']}, "
    fields = list(summary["arms"][0]["field_dims"]) if summary["shown"] == "dims" else []
    ranked = [name for name in fields if "rank_correlation" in summary["arms"][0]]
    ranks = [f"{name}: rank correlation" for name in ranked]
    grouped = ["GAUC"] if any(arm.get("gauc_test") for arm in summary["arms"]) else []
    heads = ["", "test AUC", "Δ AUC", "p", *grouped, "logloss", "mean dims", "ratio", *fields, *ranks, "table bytes"]
    baseline = summary.get("baseline", "the first row")
    lines = [
        f"# {summary['title']}",
        "",
        f"{settings['data']}, {backbone}D = {settings['dim']}, seeds {', '.join(map(str, summary['seeds']))}, "
        f"{summary['date']}. Δ and p (exact sign-flip test over seeds) are against {baseline}."
        + (" AUC, GAUC and logloss are weighted." if summary.get("weighted") else "")
        + (f" Rank correlation is Spearman's, of dims with {summary['expected']}." if ranked else ""),
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for arm in summary["arms"]:
        cells = (
            f"{arm['arm']} (best on valid)" if arm.get("chosen") else arm["arm"],
            _shown(arm["auc_test"], 4),
            f"{arm['auc_difference']['mean']:+.4f}",
            f"{arm['p_paired']:.2g}" if len(arm["runs"]) > 1 else "",
            *(_shown(arm["gauc_test"], 4) if arm["gauc_test"] else "–" for _ in grouped),
            _shown(arm["logloss_test"], 4),
            _shown(arm["avg_dim"], 1),
            f"{arm['avg_dim_ratio']['mean']:.2f}",
            *(_shown(arm["field_dims"][name], 1) for name in fields),
            *(_signed(arm["rank_correlation"][name]) for name in ranked),
            f"{arm['bytes_table']:,.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    soft = [a for a in summary["arms"] if a["auc_test_soft"]]
    if soft:
        lines += ["", "Trained with soft masks; their AUC before hardening:", ""]
        lines += [f"- {a['arm']}: {_shown(a['auc_test_soft'], 4)}, hard {_shown(a['auc_test'], 4)}" for a in soft]
    lines += _by_seed(summary, ranked)
    return "\n".join(lines) + "\n"


def _by_seed(summary: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """Rank correlations of every seed: a mean over seeds hides signs that disagree."""
    if not fields:
        return []
    lines = ["", "Rank correlation by seed:", ""]
    for arm in summary["arms"]:
        values = {name: [run["rank_correlation"][name] for run in arm["runs"]] for name in fields}
        if any(value is not None for found in values.values() for value in found):
            seeds = [
                f"{name} {', '.join('–' if v is None else f'{v:+.2f}' for v in found)}"
                for name, found in values.items()
            ]
            lines.append(f"- {arm['arm']}: {'; '.join(seeds)}")
    return lines


def _signed(spread: Mapping[str, float] | None) -> str:
    """A rank correlation, or a dash where all ids have the same dims."""
    if spread is None:
        return "–"
    return f"{spread['mean']:+.2f}" + (f" ± {spread['std']:.2f}" if spread["std"] else "")


def speed_markdown(result: Mapping[str, Any]) -> str:
    """Table 5, from `bench.train.bench_train`."""
    lines = [
        "# Seconds by method",
        "",
        f"{result['data']}, D = {result['dim']}, batch {result['batch_size']}, {result['threads']} thread(s), "
        f"{result['date']}: an epoch of {result['rows']:,} rows, inference over {result['inference_rows']:,}. "
        "Medians; ratios to the first row.",
        "",
        "| | epoch s | ratio | inference s, PyTorch | ratio | inference s, ONNX Runtime | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        cells = [case["method"]]
        for measure in ("epoch", "inference_torch", "inference_onnx"):
            cells += [f"{case[f'{measure}_median_s']:.2f}", f"{case[f'{measure}_ratio']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(spread: Mapping[str, float], digits: int) -> str:
    """Mean ± standard deviation, or the value alone where no seed differs."""
    mean = f"{spread['mean']:.{digits}f}"
    return f"{mean} ± {spread['std']:.{digits}f}" if spread["std"] else mean


def plot(summary: Mapping[str, Any], path: Path) -> None:
    """The Pareto plot or the frequency groups.

    Raises:
        EnvironmentLacks: matplotlib is missing.
    """
    if summary["figure"] == "pareto":
        _pareto(summary, path)
    elif summary["figure"] == "groups":
        _groups(summary, path)


def _pareto(summary: Mapping[str, Any], path: Path) -> None:
    figure, (axes,) = new_figure(1)
    families: dict[str, list[Mapping[str, Any]]] = {}
    for arm in summary["arms"]:
        family = arm["arm"].partition("@")[0].partition(" ")[0] + " tuned" * arm["arm"].endswith(" tuned")
        families.setdefault(family, []).append(arm)
    for family, arms in families.items():
        arms.sort(key=lambda arm: arm["bytes_table"])
        x, y = [a["bytes_table"] for a in arms], [a["auc_test"]["mean"] for a in arms]
        axes.errorbar(x, y, yerr=[a["auc_test"]["std"] for a in arms], marker="o", capsize=2, label=family)
    axes.set(xlabel="bytes of the embedding table", ylabel="test AUC, mean ± std over seeds", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save_figure(figure, path)


def _groups(summary: Mapping[str, Any], path: Path) -> None:
    """The mean over seeds of each arm that has other dims than D, and a thin line for each seed."""
    fields, D = list(summary["arms"][0]["groups"]), summary["settings"]["dim"]
    arms = [arm for arm in summary["arms"] if any(dims != D for name in fields for dims in arm["groups"][name])]
    figure, panels = new_figure(len(fields))
    for axes, field in zip(panels, fields, strict=True):
        for arm in arms:
            dims = arm["groups"][field]
            (line,) = axes.plot(range(1, len(dims) + 1), dims, marker="o", label=arm["arm"])
            for run in arm["runs"]:
                seed = run.get("groups", {}).get(field, [])
                axes.plot(range(1, len(seed) + 1), seed, color=line.get_color(), alpha=0.25, linewidth=0.8)
        axes.set(title=f"{field}, {summary['settings']['data']}", xlabel="frequency group (rarest first)")
        axes.set_ylabel("mean dims")
        axes.set_ylim(0, D)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(figure, path)
