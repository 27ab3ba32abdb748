"""A table of 1,000,000 rows at D = 64 in 8 fields, mean dims 0.4 D: whole-model latency by layout.

Nothing is trained. The selection network is set by hand so that its answer is a planted k: with one
hidden unit passing the log count on, output j is 2·j·target(s) - j², whose argmax is round(target).
The network costs what a trained one of the default size costs.

    python benchmarks/infer_synthetic_1m.py --out benchmarks/results
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import polars as pl
import torch

from amtl_export.bench.infer import InferConfig, build_subjects, report, summary, time_cases, torch_threads
from amtl_export.bench.machine import today
from amtl_export.bench.subjects import OnnxSubject, apart
from amtl_export.bench.traffic import Traffic
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.cli.types import IntList
from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.files import write_json
from amtl_export.freezing.frozen import freeze
from amtl_export.models.amtl import MaskedEmbedding
from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.selection import TwinSelector
from amtl_export.training.config import TrainConfig
from amtl_export.training.run import Run

FIELDS, D, MEAN, HIDDEN = 8, 64, 0.4, (256, 128)

#: Bundles that are timed, beside what `build_subjects` adds.
SUBJECTS = {
    "onnx-paged": ExportConfig(layout="paged"),
    "onnx-ragged": ExportConfig(layout="ragged", first_layer="plain"),
    "onnx-ragged-int8": ExportConfig(layout="ragged", first_layer="plain", dtype="int8"),
    "onnx-ragged-fused": ExportConfig(layout="ragged", first_layer="fused"),
    "onnx-ragged-fused-int8": ExportConfig(layout="ragged", first_layer="fused", dtype="int8"),
    "onnx-ragged-layer-int8": ExportConfig(layout="ragged", dtype="int8", layer_dtype="int8"),
}


def zipf_vocabulary(name: str, size: int, seed: int) -> Vocabulary:
    """Values with counts that fall like 1/rank."""
    counts = np.maximum(1, 5_000_000 / np.arange(1, size - FIRST_VALUE + 1)).astype(np.int64)
    return Vocabulary(name, pl.Series(np.arange(len(counts)) + seed), np.concatenate([[1000, 1000], counts]))


@torch.no_grad()
def plant(selector: TwinSelector, mean: float) -> None:
    """Make k grow with the log count, its mean over the ids `mean`·D."""
    s = selector.features[:, 0]  # z-scored log count
    low, high = 0.0, float(D)
    for _ in range(40):  # the bias that gives the mean, by bisection
        bias = (low + high) / 2
        dims = (4.0 * s + bias).round().clamp(0, D - 1) + 1
        low, high = (bias, high) if float(dims.mean()) < mean * D else (low, bias)
    j = torch.arange(D, dtype=torch.float32)
    for twin in (selector.high, selector.low):
        first, last = twin[0], twin[-1]
        assert isinstance(first, torch.nn.Linear)
        assert isinstance(last, torch.nn.Linear)
        for parameter in twin.parameters():
            parameter.zero_()
        first.weight[0, 0], first.bias[0] = 1.0, 100.0  # the hidden unit stays positive: ReLU passes it on
        last.weight[:, 0] = 2 * j * 4.0
        last.bias.copy_(2 * j * (bias - 400.0) - j * j)


def planted_run(rows: int, hidden: tuple[int, ...], folder: Path, backbone: str = "dnn") -> Run:
    """An untrained run whose model keeps `MEAN`·D dims."""
    size = rows // FIELDS
    vocabularies = {f"field_{i}": zipf_vocabulary(f"field_{i}", size, i) for i in range(FIELDS)}
    fields = tuple(FieldSchema(name=name, kind="categorical", type="int64") for name in vocabularies)
    embedded = tuple(EmbeddedField(name, size) for name in vocabularies)
    config = ModelConfig(embedded=embedded, dim=D, hidden=hidden, dropout=0.0, backbone=backbone)
    torch.manual_seed(0)
    model = CtrModel(config, [torch.from_numpy(v.counts) for v in vocabularies.values()]).eval()
    assert isinstance(model.embedding, MaskedEmbedding)
    for selector in model.embedding.selectors.values():
        assert isinstance(selector, TwinSelector)
        plant(selector, MEAN)
    schema = Schema(label="click", fields=fields)
    return Run(folder, TrainConfig(data="planted", dim=D), config, schema, vocabularies, model, {})


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V, over all fields.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=4.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--threads", default=1, show_default=True)
@click.option("--batch", type=IntList(), default="1,16,64,256,1024,4096", show_default=True, help="Batch sizes.")
def main(rows: int, out: Path, machine: str, seconds: float, threads: int, batch: tuple[int, ...]) -> None:
    """Time PyTorch eager and masked, ONNX dense, paged and ragged: natively and not, first layer plain and fused."""
    out.mkdir(parents=True, exist_ok=True)
    config = InferConfig(batches=batch, distributions=("zipf", "uniform"), threads=threads, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder, torch_threads(threads):
        run = planted_run(rows, HIDDEN, Path(folder))
        frozen = freeze(run)
        click.echo(f"mean dims {float(frozen.table.dims.double().mean()):.2f} of {D}")
        bundles = {name: export(frozen, Path(folder) / name, wanted) for name, wanted in SUBJECTS.items()}
        subjects = [
            *build_subjects(bundles["onnx-paged"], frozen, config, Path(folder)),
            *(
                OnnxSubject(name, bundle, "cpu", threads, native=True)
                for name, bundle in bundles.items()
                if bundle.signature.layout == "ragged"
            ),
            *(
                OnnxSubject(
                    f"{name}-fallback",
                    apart(bundles[name], Path(folder) / f"{name}-fallback"),
                    "cpu",
                    threads,
                    native=False,
                )
                for name in ("onnx-ragged", "onnx-ragged-fused")
            ),
        ]
        cases = time_cases(subjects, Traffic(frozen, frozen.example, {}), config, click.echo)
        reports = {name: bundle.report() for name, bundle in bundles.items()}
    result = report(config, cases) | {"model": summary(frozen), "settings": asdict(config)}
    keys = ("layout", "page_width", "dtype", "bytes_dense", "bytes_table", "bytes_ratio", "ops_traced", "ops")
    tables = [{"subject": name} | {key: made[key] for key in keys} for name, made in reports.items()]
    write_json(out / f"{today()}-infer-1m-{machine}.json", result | {"tables": tables})


if __name__ == "__main__":
    main()
