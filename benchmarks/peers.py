"""Whole models of 1,000,000 rows, D = 64, mean dims 0.4 D, against everything else that a user could serve.

The dense model in PyTorch eager, torch.compile, AOTInductor, OpenVINO and ONNX Runtime; in int8 by ONNX Runtime's own
tool, NNCF, torchao, and FBGEMM with PyTorch's x86 layers; and the bundles of this project, all interleaved. Then each
file alone in a process of its own: time from nothing to the first answer, and memory after a thousand requests.

    pip install '.[peers]'; python benchmarks/peers.py --out benchmarks/results
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from infer_synthetic_1m import FIELDS, HIDDEN, D, planted_run
from int8_peers import PEERS as INT8_PEERS
from int8_peers import OpenVino, int8_peers, probabilities
from torch import Tensor

from amtl_export.bench.infer import InferConfig, report, summary, torch_threads
from amtl_export.bench.machine import today
from amtl_export.bench.subjects import OnnxSubject, TorchSubject, apart, dense_torch
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.bench.traffic import Traffic
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.cli.types import IntList, TextList
from amtl_export.files import write_json
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.models.ctr import CtrModel
from amtl_export.native import library_path
from amtl_export.spec import Feed

BUNDLES = {
    "onnx-dense": ExportConfig("dense"),
    "onnx-paged": ExportConfig("paged"),
    "onnx-ragged": ExportConfig("ragged", first_layer="plain"),
    "onnx-ragged-fused": ExportConfig("ragged", first_layer="fused"),
    "onnx-ragged-fused-int8": ExportConfig("ragged", "int8", first_layer="fused"),
    "onnx-ragged-layer-int8": ExportConfig("ragged", "int8", layer_dtype="int8"),
    "onnx-portable-layers-int8": ExportConfig("dense", layer_dtype="int8"),
}

PEERS = f"torch-compile,aotinductor,openvino-dense,{INT8_PEERS},onnx-int8"


class Probability(torch.nn.Module):
    """The dense model called with ids alone; gives probabilities."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """float32 `[B]` of ids `[B, F]`."""
        return torch.sigmoid(self.model(ids, None, ()))


class Compiled:
    """A callable made by one of PyTorch's compilers."""

    def __init__(self, name: str, call: Any, size: int) -> None:
        self.name, self.bytes, self._call = name, size, call

    def prepare(self, feed: Feed) -> Tensor:
        """Ids."""
        return torch.from_numpy(feed["ids"])

    def run(self, prepared: Tensor) -> Any:
        """Probabilities `[B]`."""
        with torch.inference_mode():
            return self._call(prepared)


class OnnxFile:
    """A file that ONNX Runtime's quantiser wrote."""

    def __init__(self, name: str, path: Path, threads: int) -> None:
        from amtl_export.runtime.session import open_session

        self.name, self.bytes = name, sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
        self._session = open_session(path, threads=threads, native=False)

    def prepare(self, feed: Feed) -> Feed:
        """As it is."""
        return feed

    def run(self, prepared: Feed) -> Any:
        """Probabilities `[B]`."""
        return self._session.run(["probability"], prepared)[0]


def quantised(bundle: Bundle, folder: Path) -> Path:
    """The dense bundle with its matrix products in int8, by ONNX Runtime's dynamic quantisation."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "quantised.onnx"
    kinds = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8}
    quantize_dynamic(str(bundle.model), str(path), use_external_data_format=True, **kinds)
    return path


def aot_compiled(model: Probability, folder: Path) -> Any:
    """AOTInductor's package of the dense model, loaded."""
    shapes = {"ids": {0: torch.export.Dim("batch", min=1, max=8192)}}
    program = torch.export.export(model, (torch.zeros(4, FIELDS, dtype=torch.int64),), dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
    return torch._inductor.aoti_load_package(path)


def subjects_of(
    frozen: FrozenModel,
    bundles: dict[str, Bundle],
    folder: Path,
    threads: int,
    peers: Sequence[str],
    calibration: Sequence[Feed],
) -> list[Subject]:
    """Everyone who is timed."""
    dense = dense_torch(frozen)
    eager = TorchSubject("torch-eager", dense, frozen.inputs)
    assert isinstance(dense.model, CtrModel)
    flat = Probability(dense.model).eval()
    subjects: list[Subject] = [OnnxSubject(name, b, "cpu", threads, native=None) for name, b in bundles.items()]
    subjects.append(eager)
    if "torch-compile" in peers:
        subjects.append(Compiled("torch-compile", torch.compile(flat, dynamic=True), eager.bytes))
    if "aotinductor" in peers:
        subjects.append(Compiled("aotinductor", aot_compiled(flat, folder), eager.bytes))
    if "openvino-dense" in peers:
        subjects.append(OpenVino(apart(bundles["onnx-dense"], folder / "openvino-dense"), threads))
    subjects += int8_peers(peers, frozen, bundles["onnx-dense"], folder, threads, calibration)
    if "onnx-int8" in peers:
        subjects.append(OnnxFile("onnx-dense-int8-layers", quantised(bundles["onnx-dense"], folder), threads))
    return subjects


def check(subjects: Sequence[Subject], feed: Feed) -> None:
    """Everyone answers alike: to float32 roundings, or to those of int8."""
    expected = probabilities(subjects[0], feed)
    for subject in subjects:
        found = probabilities(subject, feed)
        allowed = 0.05 if "int8" in subject.name else 1e-4
        assert np.abs(found - expected).max() <= allowed, subject.name


ALONE = """
import json, sys, time
started = time.perf_counter()
model, library, feeds = sys.argv[1:]
import numpy as np, onnxruntime as ort
def memory():
    rows = (line.split() for line in open("/proc/self/status") if line.startswith("Rss"))
    return {row[0][:-1]: 1024 * int(row[1]) for row in rows}
options = ort.SessionOptions()
options.intra_op_num_threads = 1
if library: options.register_custom_ops_library(library)
ids = np.load(feeds, allow_pickle=False)
imported, before = time.perf_counter(), memory()
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
session.run(["probability"], {"ids": ids[0]})
answered = time.perf_counter()
for request in ids: session.run(["probability"], {"ids": request})
after = memory()
grown = {f"{key}_bytes": after[key] - before[key] for key in after}
print(json.dumps({"import_s": imported - started, "load_to_first_answer_s": answered - imported} | grown))
"""


def alone(bundle: Bundle, frozen: FrozenModel, folder: Path) -> dict[str, float]:
    """A bundle in a process of its own: seconds to the first answer, memory grown after 1,000 requests of 64."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, frozen.table.sizes[0], (1000, 64, FIELDS))
    np.save(folder / "ids.npy", ids)
    words = [str(bundle.model), str(library_path() or ""), str(folder / "ids.npy")]
    done = subprocess.run([sys.executable, "-c", ALONE, *words], check=True, capture_output=True, text=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V, over all fields.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=4.0, show_default=True, help="For each backbone, batch size and id distribution.")
@click.option("--threads", default=1, show_default=True)
@click.option("--batch", type=IntList(), default="1,64,1024,4096", show_default=True, help="Batch sizes.")
@click.option("--backbones", type=TextList(), default="dnn,deepfm,dcnv2", show_default=True, help="Backbones.")
@click.option("--peers", type=TextList(), default=PEERS, show_default=True)
def main(
    rows: int,
    out: Path,
    machine: str,
    seconds: float,
    threads: int,
    batch: tuple[int, ...],
    backbones: tuple[str, ...],
    peers: tuple[str, ...],
) -> None:
    """Time whole models beside their peers."""
    warnings.simplefilter("ignore")
    out.mkdir(parents=True, exist_ok=True)
    config = InferConfig(batches=batch, distributions=("zipf", "uniform"), threads=threads, seconds=seconds)
    cases: list[dict[str, Any]] = []
    models, processes = {}, {}
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as name, torch_threads(threads):
            folder = Path(name)
            frozen = freeze(planted_run(rows, HIDDEN, folder, backbone))
            models[backbone] = summary(frozen)
            bundles = {subject: export(frozen, folder / subject, wanted) for subject, wanted in BUNDLES.items()}
            traffic = Traffic(frozen, frozen.example, {})
            sample = traffic.feeds(1024, "zipf", 6)[:4]
            subjects = subjects_of(frozen, bundles, folder, threads, peers, sample)
            check(subjects, traffic.feeds(64, "uniform", 5)[0])
            for size, distribution in itertools.product(batch, config.distributions):
                times = interleave(subjects, traffic.feeds(size, distribution, config.seed), seconds=seconds)
                found = {subject.name: Latency.of(times[subject.name], size) for subject in subjects}
                about = {"backbone": backbone, "batch": size, "dim": D, "threads": threads, "ids": distribution}
                cases += [about | {"subject": s.name, **asdict(found[s.name]), "bytes": s.bytes} for s in subjects]
                dense = found["onnx-dense"].p50_us
                ratios = "  ".join(f"{other} {latency.p50_us / dense:.2f}" for other, latency in found.items())
                click.echo(f"{backbone} batch {size}, {distribution}: onnx-dense {dense:.0f} µs; against it {ratios}")
            if backbone == "dnn":
                processes = {subject: alone(bundle, frozen, folder) for subject, bundle in bundles.items()}
                click.echo(json.dumps(processes))
    write_json(
        out / f"{today()}-peers-{machine}.json", report(config, cases) | {"models": models, "processes": processes}
    )


if __name__ == "__main__":
    main()
