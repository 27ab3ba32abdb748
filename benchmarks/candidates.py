"""One user, many candidates: the user's fields given once per request, against rows that repeat them.

A table of 1,000,000 rows at D = 64 in 8 fields, mean dims 0.4 D; 4 and 6 of the fields are the request's. ONNX dense
and PyTorch are fed the repeated ids, as they are served today.

    python benchmarks/candidates.py --out benchmarks/results
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from infer_synthetic_1m import FIELDS, HIDDEN, planted_run

from amtl_export.bench.infer import InferConfig, report, summary, time_cases, torch_threads
from amtl_export.bench.machine import today
from amtl_export.bench.subjects import OnnxSubject, TorchSubject, dense_torch
from amtl_export.bench.timing import Subject
from amtl_export.bench.traffic import Traffic
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.cli.types import IntList, TextList
from amtl_export.files import write_json
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.inputs import graph_inputs

LAYOUTS = {
    "onnx-dense": ExportConfig("dense"),
    "onnx-paged": ExportConfig("paged"),
    "onnx-ragged": ExportConfig("ragged", first_layer="plain"),
    "onnx-ragged-fused": ExportConfig("ragged", first_layer="fused"),
    "onnx-ragged-layer-int8": ExportConfig("ragged", "int8", layer_dtype="int8"),
}


def build(frozen: FrozenModel, fields: tuple[str, ...], threads: int, folder: Path) -> list[Subject]:
    """Every layout fed rows, and fed requests."""
    subjects: list[Subject] = [TorchSubject("torch-eager", dense_torch(frozen), frozen.inputs)]
    for name, config in LAYOUTS.items():
        for suffix, request in (("", ()), ("-request", fields)):
            own = folder / f"{name}{suffix}-{len(fields)}"
            bundle = export(frozen, own, replace(config, request_fields=request))
            subjects.append(OnnxSubject(f"{name}{suffix}", bundle, "cpu", threads))
    return subjects


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V, over all fields.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=4.0, show_default=True, help="For each number of candidates and id distribution.")
@click.option("--threads", default=1, show_default=True)
@click.option("--batch", type=IntList(), default="1,64,256,1024,4096", show_default=True, help="Candidates.")
@click.option("--shared", type=IntList(), default="4,6", show_default=True, help="How many fields are the request's.")
@click.option("--backbones", type=TextList(), default="dnn,deepfm,dcnv2", show_default=True)
def main(
    rows: int,
    out: Path,
    machine: str,
    seconds: float,
    threads: int,
    batch: tuple[int, ...],
    shared: tuple[int, ...],
    backbones: tuple[str, ...],
) -> None:
    """Time every layout with and without request fields."""
    out.mkdir(parents=True, exist_ok=True)
    config = InferConfig(batches=batch, distributions=("zipf", "uniform"), threads=threads, seconds=seconds)
    cases: list[dict[str, Any]] = []
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as name, torch_threads(threads):
            folder = Path(name)
            frozen = freeze(planted_run(rows, HIDDEN, folder, backbone))
            for count in shared:
                click.echo(f"{backbone}, {count} of {FIELDS} fields once per request")
                fields = tuple(field.name for field in frozen.config.embedded[:count])
                subjects = build(frozen, fields, threads, folder)
                inputs = graph_inputs(frozen.inputs, fields)
                timed = time_cases(subjects, Traffic(frozen, frozen.example, {}), config, click.echo, inputs=inputs)
                cases += [case | {"backbone": backbone, "request_fields": count} for case in timed]
                model = summary(frozen)
    result = report(config, cases) | {"model": model, "settings": asdict(config)}
    write_json(out / f"{today()}-candidates-{machine}.json", result)


if __name__ == "__main__":
    main()
