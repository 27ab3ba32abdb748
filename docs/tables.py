"""Tables of figures, written into the pages from the results that they quote.

python docs/tables.py            # writes them
python docs/tables.py --check    # says which pages would change

A table stands in a page behind `<!-- table: NAME -->` and ends with the next empty line.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def read(name: str) -> Any:
    """A result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


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


def encoded(name: str) -> Iterator[list[str]]:
    """CPU nanoseconds of a row, by how many values there are."""
    cases = read(name)["encode"]
    yield ["CPU ns a row", "10⁴ values", "10⁵", "10⁶"]
    for key, text in (("lookup_ns_per_row", "looked up"), ("encode_ns_per_further_row", "read, counted and encoded")):
        for type in ("int64", "string"):
            yield [f"{type}, {text}", *(f"{case[key]:.0f}" for case in cases if case["type"] == type)]


def steps(name: str) -> Iterator[list[str]]:
    """A line for a shape of batch: milliseconds of a step, AMTL's against FBE's."""
    cases = read(name)["steps"]
    yield ["fields × batch, D", *(f"{m}, {o}" for o in ("Adam", "row-wise Adagrad") for m in ("FBE", "AMTL"))]
    for start in range(0, len(cases), 4):
        first, *_ = found = cases[start : start + 4]
        said = (f"{own['cpu_ms']:.1f} ms" + f" ({own['cpu_ratio']:.2f})" * (own["method"] == "amtl") for own in found)
        yield [f"{first['fields']} × {first['batch']:,}, {first['dim']}", *said]


def tables(name: str, ids: int) -> Iterator[list[str]]:
    """A line for a table: milliseconds of a step of each optimizer."""
    cases = [case for case in read(name)["tables"] if case["ids"] == ids]
    titles = {"adam": "Adam", "rowwise-adagrad": "row-wise Adagrad", "fbgemm rowwise-adagrad": "FBGEMM's, fused"}
    yield ["V × D", *titles.values()]
    for values, dim in dict.fromkeys((case["values"], case["dim"]) for case in cases):
        own = {case["subject"]: case["cpu_ms"] for case in cases if (case["values"], case["dim"]) == (values, dim)}
        yield [f"{values:,} × {dim}", *(f"{own[subject]:.1f} ms" for subject in titles)]


def scored(name: str) -> Iterator[list[str]]:
    """A line for what scores files."""
    result = read(name)
    parts = [result["compared"], result["full"]]
    yield ["", *(f"rows a second, {part['rows']:,} rows" for part in parts), "memory", "rows in order"]
    titles = {
        "score": "`score`",
        "score on ray": "`score --ray local`",
        "polars loop": "a loop of Polars and ONNX Runtime",
    }
    for subject, title in (titles | {"ray data": "Ray Data, two workers"}).items():
        found = [part["subjects"][subject] for part in parts]
        rates = (f"{own['rows_per_second']:,.0f}" for own in found)
        yield [title, *rates, f"{found[-1]['peak_bytes'] / 2**20:,.0f} MiB", "yes" if found[-1]["in_order"] else "no"]


def mapped(name: str) -> Iterator[list[str]]:
    """A line for a command: seconds, and the most memory that the system could not take back."""
    cases = read(name)["cases"]
    yield ["", *(f"{case['values']:,} × {case['dim']}, {case['table_bytes'] / 2**30:.1f} GiB" for case in cases)]
    for number, own in enumerate(cases[0]["commands"]):
        said, *words = own["command"].split()
        kind = f" {words[0]}" if said == "validate" else f" {words[2]}" if said == "export" else ""
        found = [case["commands"][number] for case in cases]
        yield [
            f"`{said}`{kind}",
            *(f"{one['seconds']:.0f} s, {one['anonymous_bytes'] / 2**30:.2f} GiB" for one in found),
        ]


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


_BATCHES = {f"{batch:,}": {"batch": batch} for batch in (1, 64, 256, 1024, 4096)}
_PLANTED = {"rows": 1_000_000, "dim": 64, "mean": 0.4, "threads": 1}
_MODELS = ("dnn", "deepfm", "dcnv2")
_LAYERS = {name: f"2026-11-27-ml-1m-d64-{name}-layers-compressed-cpu2" for name in _MODELS}
_PORTABLE = {"portable": "portable, standard operators alone"}
_FIRST_LAYER = {"native": "native", "native-layer-int8": "native, rows and first layer in int8"}
_DYNAMIC = "ONNX Runtime's dynamic quantization"
_COMPRESSED = _PORTABLE | _FIRST_LAYER | {"onnx-dynamic-int8": f"{_DYNAMIC} of all layers"}
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
_SERVED = {"onnx-dense": "ONNX dense", "onnx-compact": "compact", "onnx-compact-int8": "compact, int8"}
_TORCH = {"torch": "PyTorch, an exported program"}

#: Page → table → what makes it.
PAGES: dict[str, dict[str, Callable[[], Iterator[list[str]]]]] = {
    "benchmarks.md": {
        "whole model": lambda: latencies(
            "2026-11-25-infer-1m-xeon2",
            "batch",
            {
                "onnx-ragged": "ragged, native",
                "onnx-ragged-joined": "first layer fused",
                "onnx-ragged-joined-int8": "fused, rows in int8",
                "onnx-ragged-layer-int8": "fused, rows and weights in int8",
                "onnx-ragged-body": "ragged, without the library",
                "onnx-paged": "paged, pages of 32",
                "torch-eager": "PyTorch eager, dense",
                "torch-masked": "PyTorch, selection network in place",
            },
            _BATCHES,
        ),
        "lookup": lambda: latencies(
            "2026-11-24-lookup-cpu2",
            "lookups",
            {
                "onnx-ragged": "ragged, native",
                "onnx-ragged-int8": "ragged in int8",
                "onnx-paged": "paged",
                "fbgemm-fp32": "FBGEMM fp32",
                "fbgemm-int8": "FBGEMM int8",
                "torch-embedding": "PyTorch",
                "numpy-take": "numpy take",
                "plain-c-loop": "a plain C loop over ragged",
            },
            {f"{batch:,} × 8": {"batch": batch} for batch in (1, 64, 1024, 4096)},
            **_PLANTED,
        ),
        **{f"peers {name}": partial(beside_peers, "2026-11-27-peers-cpu2", name) for name in _MODELS},
        "candidates": lambda: latencies(
            "2026-11-25-candidates-xeon2",
            "model, request fields",
            {
                "onnx-dense-request": "ONNX dense, split",
                "onnx-ragged-request": "ragged",
                "onnx-ragged-joined-request": "fused",
                "onnx-ragged-layer-int8-request": "fused, rows and weights in int8",
                "onnx-paged-request": "paged",
                "onnx-ragged-joined": "fused, repeated",
                "onnx-ragged-layer-int8": "the same in int8, repeated",
            },
            {
                f"{name}, {fields} of 8": {"backbone": name, "request_fields": fields}
                for name in _MODELS
                for fields in (4, 6)
            },
            batch=1024,
        ),
        "parity": lambda: parity(
            "2026-11-23-ml-1m-parity-cpu2",
            {"fbe": "FBE, DNN (published: .8903, .3267)", "amtl": "AMTL, DNN"},
        ),
        "budgets": lambda: budgets(
            "2026-11-24-ml-1m-pareto-d64-cpu2",
            {
                "fbe": "FBE",
                "amtl@0.4": "AMTL, budget 0.4",
                "amtl@0.2": "AMTL, budget 0.2",
                "mde@0.2": "MDE, budget 0.2",
                "magprune@0.2 tuned": "Cut as trained, budget 0.2, trained on",
                "fbe D=13": "FBE at D = 13",
            },
        ),
    },
    "gpu.md": {
        "models": lambda: on_card(
            "2026-11-26-gpu-h200",
            {
                "onnx-dense": "dense",
                "onnx-paged": "paged",
                "onnx-ragged": "ragged",
                "onnx-ragged-int8": "ragged int8",
                "torch-compile": "torch.compile",
                "torch-eager": "PyTorch eager",
            },
            (1, 1024, 65536),
        )
    },
    "layouts.md": {
        "variants": lambda: variants(
            "2026-11-24-lookup-cpu2",
            {
                "ragged": ["onnx-ragged"],
                "ragged, rows in no order": ["onnx-ragged-shuffled"],
                "ragged in fp16; in int8": ["onnx-ragged-fp16", "onnx-ragged-int8"],
                "dense in int8, scales beside (`--layout dense --dtype int8`)": ["onnx-dense-int8"],
                "dense in int8 by ONNX Runtime's `GatherBlockQuantized`": ["onnx-dense-int8-block"],
                "ragged by its fallback": ["onnx-ragged-body"],
            },
            batch=1024,
            **_PLANTED,
        )
    },
    "compress.md": {
        "ml-1m": lambda: compressed({"dnn": "2026-11-26-ml-1m-d64-dnn-compressed-cpu2"}, _COMPRESSED),
        "synthetic": lambda: compressed({"dnn": "2026-11-26-synthetic-1m-d64-dnn-compressed-cpu2"}, _COMPRESSED),
        "layers": lambda: compressed(
            _LAYERS,
            {
                "portable": "portable",
                "portable-layers-int8": "portable, layers in int8",
                "native-int8": "native, rows in int8",
                "native-layer-int8": "native, rows and layers in int8",
                "onnx-dynamic-int8": _DYNAMIC,
                "onnx-static-int8": "its static one, calibrated",
                "openvino-int8": "OpenVINO, layers in int8 by NNCF",
                "fbgemm-x86-int8": "FBGEMM's int8 tables, PyTorch's x86 int8 layers",
                "torchao-int8": "torchao int8, compiled",
            },
            model=True,
            uniform=False,
        ),
    },
    "serving.md": {
        "epyc": lambda: served("2026-11-24-serving-cpu2", _SERVED | _TORCH),
        "xeon": lambda: served(
            "2026-11-25-serving-xeon2",
            _SERVED | {"onnx-compact-layer-int8": "compact, rows and weights in int8"} | _TORCH,
        ),
    },
    "score.md": {"score": lambda: scored("2026-11-26-score-cpu2")},
    "scale.md": {
        "encode": lambda: encoded("2026-11-26-scale-cpu2"),
        "mapped": lambda: mapped("2026-11-26-mapped-cpu2"),
        "steps": lambda: steps("2026-11-27-epoch-cpu2"),
        "tables": lambda: tables("2026-11-27-epoch-cpu2", 16384),
    },
}


def text_of(table: Iterator[list[str]]) -> str:
    """As Markdown."""
    head, *rows = table
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def written(page: str) -> str:
    """A page with its tables as the results have them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, table in PAGES[page].items():
        mark = f"<!-- table: {name} -->\n"
        if text.count(mark) != 1:
            raise SystemExit(f"{page} has {text.count(mark)} places for the table {name!r}, not one")
        before, after = text.split(mark)
        text = before + mark + text_of(table()) + re.sub(r"\A\|.*?(?=\n\n)", "", after, flags=re.DOTALL)
    return text


def main() -> None:
    """Write the pages, or say which would change."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--check", action="store_true")
    check = arguments.parse_args().check
    for page in PAGES:
        text = written(page)
        if not check:
            (DOCS / page).write_text(text, encoding="utf-8")
        elif text != (DOCS / page).read_text(encoding="utf-8"):
            raise SystemExit(f"docs/{page} has a table that is not its result's: run python docs/tables.py")


if __name__ == "__main__":
    main()
