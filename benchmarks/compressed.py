"""A trained run compressed: bytes, AUC and latency of its bundles against ONNX dense and quantized by ONNX Runtime.

python benchmarks/compressed.py RUN --name ml-1m-d64 --dim-budget 0.1 --out benchmarks/results
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from int8_peers import PEERS, auc_of, int8_peers
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from amtl_export.bench.infer import InferConfig, report, summary, time_cases, torch_threads
from amtl_export.bench.machine import today
from amtl_export.bench.subjects import OnnxSubject
from amtl_export.bench.traffic import Traffic
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.cli.types import IntList, TextList
from amtl_export.compression.compress import compress
from amtl_export.files import write_json
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.scores import Scores
from amtl_export.spec import Feed
from amtl_export.validation.scores import graph_answers
from amtl_export.validation.validate import validate

#: Bundles of the compressed model.
SUBJECTS = {
    "portable": ExportConfig(target="portable", dtype="fp32"),
    "portable-layers-int8": ExportConfig(target="portable", dtype="fp32", layer_dtype="int8"),
    "native": ExportConfig(target="native", dtype="fp32"),
    "native-int8": ExportConfig(target="native", dtype="int8"),
    "native-layer-int8": ExportConfig(target="native", dtype="int8", layer_dtype="int8"),
    "native-int4-layer-int8": ExportConfig(target="native", dtype="int4", layer_dtype="int8"),
}


#: Examples that ONNX Runtime's static quantization sees.
CALIBRATED = 4096


def dynamic(dense: Bundle, folder: Path) -> Bundle:
    """The dense bundle with the weights of its layers quantized by ONNX Runtime, activations at run time."""
    _without_graph(dense, folder)
    quantize_dynamic(
        dense.model,
        folder / "model.onnx",
        op_types_to_quantize=["Gemm", "MatMul"],
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    return open_bundle(folder)


def static(dense: Bundle, folder: Path, feed: Feed) -> Bundle:
    """The same with activations quantized by scales that it finds on a sample."""
    _without_graph(dense, folder)
    quantize_static(
        dense.model,
        folder / "model.onnx",
        Calibration(feed),
        op_types_to_quantize=["Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    return open_bundle(folder)


class Calibration(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    """One batch."""

    def __init__(self, feed: Feed) -> None:
        self._left = [feed]

    def get_next(self) -> Feed | None:
        """The batch, then none."""
        return self._left.pop() if self._left else None


def _without_graph(bundle: Bundle, folder: Path) -> None:
    shutil.copytree(bundle.path, folder)
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).unlink()


@click.command()
@click.argument("source")
@click.option("--name", required=True, help="Of the data, in the file's name.")
@click.option("--dim-budget", type=float, default=0.1, show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=4.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--threads", default=1, show_default=True)
@click.option("--batch", type=IntList(), default="1,64,1024", show_default=True)
@click.option("--peers", "others", type=TextList(), default=PEERS, show_default=True, help="Beside ONNX Runtime's own.")
def main(
    source: str,
    name: str,
    dim_budget: float,
    split: Any,
    out: Path,
    machine: str,
    seconds: float,
    threads: int,
    batch: tuple[int, ...],
    others: tuple[str, ...],
) -> None:
    """Compress all fields, export for both targets, prove, time beside each other."""
    config = InferConfig(batches=batch, distributions=("zipf", "uniform"), threads=threads, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder, torch_threads(threads):
        place = Path(folder)
        small = compress(freeze(source), dim_budget=dim_budget, all_fields=True, note=click.echo)
        bundles = {own: export(small, place / own, wanted) for own, wanted in SUBJECTS.items()}
        dense = export(fold(freeze(source)), place / "dense", ExportConfig(layout="dense"))
        verdicts = {
            own: validate(bundle.path, small, split=split).to_json() | {"bundle": own}
            for own, bundle in bundles.items()
        }
        for own, verdict in verdicts.items():
            click.echo(f"{own}: {verdict['verdict']}, {verdict['bytes_ratio']:.3f}, {verdict['delta_auc_original']}")
        sample = traffic(small, bundles["portable"]).feeds(CALIBRATED, "zipf", 1)[0]
        peers = {
            "onnx-dense": dense,
            "onnx-dynamic-int8": dynamic(dense, place / "dynamic"),
            "onnx-static-int8": static(dense, place / "static", sample),
        }
        aucs = {own: _auc(bundle, small, split) for own, bundle in {**peers, **bundles}.items()}
        more = int8_peers(others, freeze(source), dense, place, threads, [sample])
        aucs |= {subject.name: auc_of(subject, small, split) for subject in more}
        click.echo(f"AUC: {aucs}")
        subjects = [
            *more,
            *(OnnxSubject(own, bundle, "cpu", threads) for own, bundle in peers.items()),
            *(
                OnnxSubject(own, bundle, "cpu", threads, not own.startswith("portable") or None)
                for own, bundle in bundles.items()
            ),
        ]
        cases = time_cases(subjects, traffic(small, bundles["portable"]), config, click.echo)
        tables = {own: _table(bundle) for own, bundle in bundles.items()}
    assert small.compressed is not None
    result = report(config, cases) | {"model": summary(small), "settings": asdict(config), "tables": tables}
    found = {"compressed": small.compressed.report, "verdicts": verdicts, "auc": aucs}
    write_json(out / f"{today()}-{name}-compressed-{machine}.json", result | found)


def _auc(bundle: Bundle, frozen: FrozenModel, split: Any) -> float:
    """Of a graph."""
    return Scores.of(graph_answers(bundle, frozen, split, "cpu", optimized=True)[frozen.score]).auc


def traffic(frozen: FrozenModel, bundle: Bundle) -> Traffic:
    """Ids as skewed as the model's own, and uniform ones."""
    return Traffic.of(frozen, {site.input: site.table for site in bundle.signature.lookups if site.input})


def _table(bundle: Bundle) -> dict[str, Any]:
    made = bundle.report()
    return {
        key: made[key] for key in ("layout", "page_width", "dtype", "bytes_dense", "bytes_table", "bytes_ratio", "ops")
    }


if __name__ == "__main__":
    main()
