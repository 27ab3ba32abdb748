"""Tables of latency, memory and AUC: what a model costs, and what it answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from figures import read

_PEERS = {
    "onnx-ragged-layer-int8": "native, rows and layers in int8",
    "onnx-ragged-fused": "native, first layer fused",
    "onnx-portable-layers-int8": "portable, layers in int8",
    "onnx-dense-int8-layers": "ONNX Runtime, dynamic int8",
    "openvino-int8": "OpenVINO, layers in int8 by NNCF",
    "openvino-int8-weights": "OpenVINO, weights in int8 by NNCF",
    "fbgemm-x86-int8": "FBGEMM's int8 tables, PyTorch's x86 int8 layers",
    "torchao-int8": "torchao int8, compiled",
    "openvino-dense": "OpenVINO",
    "aotinductor": "AOTInductor",
    "torch-compile": "torch.compile",
    "torch-eager": "PyTorch eager",
}


def ratio(value: float) -> str:
    """Two digits behind the point where they may be told apart."""
    return f"{value:.{2 if value < 1.995 else 1 if value < 9.95 else 0}f}"


def both(cases: Sequence[Mapping[str, Any]], subject: str, wanted: Mapping[str, Any], uniform: bool = True) -> str:
    """A median against dense, of Zipf ids, and of uniform ids in parentheses."""
    laws = ("zipf", "uniform") if uniform else ("zipf",)
    medians = [[p50(cases, own, {**wanted, "ids": law}) for own in (subject, "onnx-dense")] for law in laws]
    first, *second = [ratio(own / dense) for own, dense in medians]
    return first + "".join(f" ({text})" for text in second)


def p50(cases: Sequence[Mapping[str, Any]], subject: str, wanted: Mapping[str, Any]) -> float:
    """Microseconds of the one case that has these values."""
    wanted = {**wanted, "subject": subject}
    (found,) = [case["p50_us"] for case in cases if all(case[key] == value for key, value in wanted.items())]
    return float(found)


def latencies(
    name: str, head: str, columns: Mapping[str, str], asked: Mapping[str, Mapping[str, Any]], **fixed: Any
) -> Iterator[list[str]]:
    """A line for what is asked, a column for a subject, all against dense."""
    cases = read(name)["cases"]
    yield [head, "ONNX dense", *columns.values()]
    for label, own in asked.items():
        wanted = dict(own) | fixed
        dense = p50(cases, "onnx-dense", {**wanted, "ids": "zipf"})
        yield [label, f"{dense:,.0f} µs", *(both(cases, subject, wanted) for subject in columns)]


def beside_peers(name: str, backbone: str) -> Iterator[list[str]]:
    """A line for whoever answers, a column for a batch, all against dense."""
    cases, batches = read(name)["cases"], (1, 64, 1024, 4096)
    asked = [{"backbone": backbone, "batch": batch} for batch in batches]
    yield [backbone, *(f"batch {batch:,}" for batch in batches)]
    yield ["ONNX dense", *(f"{p50(cases, 'onnx-dense', {**own, 'ids': 'zipf'}):,.0f} µs" for own in asked)]
    for subject, title in _PEERS.items():
        yield [title, *(both(cases, subject, own) for own in asked)]


def compressed(
    names: Mapping[str, str], subjects: Mapping[str, str], *, model: bool = False, uniform: bool = True
) -> Iterator[list[str]]:
    """A line for a bundle: bytes of its tables, what it costs in AUC, time at three batches."""
    yield [*["model"] * model, "bundle", "table bytes", "ΔAUC", "batch 1", "64", "1,024"]
    for label, name in names.items():
        result = read(name)
        aucs = result.get("auc", {own: verdict["auc_onnx"] for own, verdict in result["verdicts"].items()})
        before = next(iter(result["verdicts"].values()))["auc_original"]
        for subject, title in subjects.items():
            table = result["tables"].get(subject)
            size = f"{table['bytes_ratio']:.3f}" if table else "1"
            auc = f"{aucs[subject] - before:+.5f}" if subject in aucs else ""
            times = [both(result["cases"], subject, {"batch": batch}, uniform) for batch in (1, 64, 1024)]
            yield [*[label] * model, title, size, auc, *times]


def served(name: str, subjects: Mapping[str, str]) -> Iterator[list[str]]:
    """A line for a model in a server of its own."""
    cases = {case["subject"]: case for case in read(name)["cases"]}
    yield [
        *("", "requests a second at p99 ≤ 10 ms", "all at once", "one by one, p50"),
        *("start to first answer", "memory, every row read"),
    ]
    dense = cases["onnx-dense"]

    def beside(case: Mapping[str, Any], of: Callable[[Mapping[str, Any]], float], text: str, scale: float = 1) -> str:
        said = text.format(of(case) / scale)
        return said if case is dense else f"{said} ({of(case) / of(dense):.2f})"

    for subject, title in subjects.items():
        case = cases[subject]
        yield [
            title,
            beside(case, lambda own: own["max_qps"], "{:,.0f}"),
            beside(case, lambda own: own["offline_qps"], "{:,.0f}"),
            beside(case, lambda own: own["alone_p50_ms"], "{:.2f} ms"),
            f"{case['first_answer_s']:.1f} s",
            beside(case, memory, "{:,.0f} MB", 1e6),
        ]


def memory(case: Mapping[str, Any]) -> float:
    """Bytes that a server holds when every row was read: the median of its starts."""
    return float(statistics.median(start["memory_all_rows"]["pss_bytes"] for start in case["starts"]))


def on_card(name: str, subjects: Mapping[str, str], batches: Sequence[int]) -> Iterator[list[str]]:
    """A line for a batch, microseconds for a subject; the last line has each one's bytes."""
    cases = {(case["batch"], case["subject"]): case for case in read(name)["models"]["cases"]}
    yield ["batch", *subjects.values()]
    for batch in batches:
        yield [f"{batch:,}", *(f"{cases[batch, subject]['p50_us']:,.1f}" for subject in subjects)]
    yield ["bytes, MiB", *(f"{cases[batches[0], subject]['bytes'] / 2**20:,.0f}" for subject in subjects)]


def parity(name: str, titles: Mapping[str, str]) -> Iterator[list[str]]:
    """A line for a trained model: what it reaches, and what its bundles answer."""
    methods = read(name)["methods"]
    yield ["", "test AUC", "logloss", "mean dims", "rows bit-equal", "\\|ΔAUC\\| ONNX Runtime"]
    for method, title in titles.items():
        own, bundles = methods[method]["metrics"], methods[method]["bundles"].values()
        share = f" ({own['avg_dim_ratio']:.2f} D)" if own["avg_dim_ratio"] < 1 else ""
        (rows,) = {(bundle["rows_bit_equal"], bundle["rows_checked"]) for bundle in bundles}
        yield [
            title,
            short(own["auc_test"]),
            short(own["logloss_test"]),
            f"{own['avg_dim']:.{1 if share else 0}f}{share}",
            "{:,} of {:,}".format(*rows),
            f"{max(bundle['abs_delta_auc'] for bundle in bundles):.2g}".replace("e-0", "e-"),
        ]


def short(value: float) -> str:
    """Four digits, as AUCs are written."""
    return f"{value:.4f}".removeprefix("0")


def budgets(name: str, titles: Mapping[str, str]) -> Iterator[list[str]]:
    """A line for an arm of an experiment: AUC over seeds, dims and bytes."""
    arms = {arm["arm"]: arm for arm in read(name)["arms"]}
    yield ["", "test AUC", "mean dims", "table, smallest layout"]
    for arm, title in titles.items():
        own = arms[arm]
        auc, dims = own["auc_test"], own["avg_dim"]["mean"]
        spread = f"{short(auc['mean'])} ± {short(auc['std'])}"
        yield [title, spread, f"{dims:.1f}".removesuffix(".0"), f"{own['bytes_table'] / 1e6:.2f} MB"]


def variants(name: str, titles: Mapping[str, Sequence[str]], **wanted: Any) -> Iterator[list[str]]:
    """A line for what was compared, one or two subjects in it."""
    cases = read(name)["cases"]
    yield [f"what was compared, {wanted['batch']:,} × 8 lookups", "time against ONNX dense, Zipf (uniform)"]
    for title, subjects in titles.items():
        yield [title, "; ".join(both(cases, subject, wanted) for subject in subjects)]
