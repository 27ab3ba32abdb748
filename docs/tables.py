"""Tables of figures, written into the pages from the results that they quote.

python docs/tables.py            # writes them
python docs/tables.py --check    # says which pages would change

A table stands in a page behind `<!-- table: NAME -->` and ends with the next empty line, or with the page.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from latency_tables import beside_peers, budgets, compressed, latencies, on_card, parity, served, variants
from scale_tables import counted, encoded, grown, mapped, scored, steps, tables

DOCS = Path(__file__).resolve().parent

_BATCHES = {f"{batch:,}": {"batch": batch} for batch in (1, 64, 256, 1024, 4096)}
_PLANTED = {"rows": 1_000_000, "dim": 64, "mean": 0.4, "threads": 1}
_MODELS = ("dnn", "deepfm", "dcnv2")
_LAYERS = {name: f"2026-11-27-ml-1m-d64-{name}-layers-compressed-cpu2" for name in _MODELS}
_PORTABLE = {"portable": "portable, standard operators alone"}
_FIRST_LAYER = {"native": "native", "native-layer-int8": "native, rows and first layer in int8"}
_DYNAMIC = "ONNX Runtime's dynamic quantization"
_COMPRESSED = _PORTABLE | _FIRST_LAYER | {"onnx-dynamic-int8": f"{_DYNAMIC} of all layers"}
_SERVED = {"onnx-dense": "ONNX dense", "onnx-compact": "compact", "onnx-compact-int8": "compact, int8"}
_TORCH = {"torch": "PyTorch, an exported program"}

#: Page → table → what makes it.
PAGES: dict[str, dict[str, Callable[[], Iterator[list[str]]]]] = {
    "benchmarks/whole-model.md": {
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
    },
    "benchmarks/lookups.md": {
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
    },
    "benchmarks/peers.md": {f"peers {name}": partial(beside_peers, "2026-11-27-peers-cpu2", name) for name in _MODELS},
    "benchmarks/candidates.md": {
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
    },
    "benchmarks/parity.md": {
        "parity": lambda: parity(
            "2026-11-23-ml-1m-parity-cpu2",
            {"fbe": "FBE, DNN (published: .8903, .3267)", "amtl": "AMTL, DNN"},
        ),
    },
    "benchmarks/budgets.md": {
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
        "ml-1m": lambda: compressed(
            {"dnn": "2026-11-27-ml-1m-d64-dnn-compressed-cpu2"},
            _PORTABLE
            | {"portable-layers-int8": "portable, layers in int8", "native": "native"}
            | {
                "native-layer-int8": "native, rows and layers in int8",
                "onnx-dynamic-int8": f"{_DYNAMIC} of all layers",
            },
        ),
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
        "encode": lambda: encoded("2026-11-27-scale-cpu2"),
        "count": lambda: counted("2026-11-27-scale-cpu2"),
        "mapped": lambda: mapped("2026-11-26-mapped-cpu2"),
        "steps": lambda: steps("2026-11-27-epoch-cpu2"),
        "tables": lambda: tables("2026-11-27-epoch-cpu2", 16384),
        "growth": lambda: grown("2026-11-27-growth-cpu2"),
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
        text = before + mark + text_of(table()) + re.sub(r"\A\|.*?(?=\n\n|\n\Z)", "", after, flags=re.DOTALL)
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
