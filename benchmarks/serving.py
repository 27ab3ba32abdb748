"""A table of 1,000,000 rows at D = 64 behind a real Triton: requests a second at a p99, memory, first answer, a soak.

ONNX dense, the bundle that the planner makes, with rows in int8, with the fused weights too, and PyTorch, each behind
Triton's Python backend in a server of its own; all servers stay up, and rounds go over them in turn.
Needs `make triton`.

    python benchmarks/serving.py --out benchmarks/results
"""

from __future__ import annotations

import os
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from infer_synthetic_1m import HIDDEN, planted_run
from triton_server import Server, serving

from amtl_export.bench.load import LoadResult, Request, drive
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.process import mapped, pss
from amtl_export.bench.server import SOAK, ServerBenchConfig, Triton, highest_rate, soaked
from amtl_export.bench.subjects import dense_torch
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.files import write_json
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.traffic.draw import draw

HERE = Path(__file__).resolve().parent

SUBJECTS = {
    "onnx-dense": ExportConfig("dense"),
    "onnx-compact": ExportConfig("auto", target="native"),
    "onnx-compact-int8": ExportConfig("auto", dtype="int8", target="native"),
    "onnx-compact-layer-int8": ExportConfig("auto", dtype="int8", layer_dtype="int8", target="native"),
}


@dataclass
class Subject:
    """A model in a running server.

    Attributes:
        name: of the subject.
        server: with the model `ctr`.
        table: the file with its weights that the server maps; None if it maps none.
    """

    name: str
    server: Server
    table: Path | None

    def client(self) -> Triton:
        """The server's model."""
        return Triton(f"127.0.0.1:{self.server.grpc}", "ctr", "grpc")

    def memory(self) -> dict[str, int]:
        """Of the server now, and how much of it is its table's file."""
        pid = self.server.process.pid
        return {"pss_bytes": pss(pid), "table_bytes": mapped(pid, self.table) if self.table else 0}


def torch_repository(frozen: FrozenModel, dense: Path, folder: Path) -> None:
    """The dense bundle's repository with PyTorch in it."""
    shutil.copytree(dense, folder)
    version = folder / "ctr" / "1"
    shutil.rmtree(version / "model.onnx")
    shutil.copyfile(HERE / "torch_triton_model.py", version / "model.py")
    sample = (torch.zeros(2, len(frozen.config.embedded), dtype=torch.int64),)
    shapes: dict[str, Any] = {"ids": {0: torch.export.Dim("batch", min=1)}, "numeric": None, "multi": []}
    program = torch.export.export(dense_torch(frozen), (*sample, None, []), dynamic_shapes=shapes)
    torch.export.save(program, version / "model.pt2")


def make_repositories(frozen: FrozenModel, folder: Path, max_batch: int) -> dict[str, dict[str, Any]]:
    """Each subject's model repository, and what its bundle is."""
    found = {}
    for name, config in SUBJECTS.items():
        bundle = export(frozen, folder / "bundles" / name, config)
        package(bundle.path, folder / name, "ctr", PackageConfig("python", max_batch=max_batch))
        keys = ("layout", "dtype", "bytes_table", "bytes_ratio", "plan")
        found[name] = {key: bundle.report()[key] for key in keys}
    torch_repository(frozen, folder / "onnx-dense", folder / "torch")
    return found | {"torch": {}}


@contextmanager
def started(triton: Path, folder: Path, name: str) -> Iterator[Subject]:
    """A server while the block runs."""
    table = folder / name / "ctr" / "1" / "model.onnx" / "model.onnx.data"
    with serving(triton, folder / name, folder / f"{name}.log", patience_s=0.01) as server:
        yield Subject(name, server, table.resolve() if table.is_file() else None)


def alone(triton: Path, folder: Path, name: str, request: Request, sizes: list[int]) -> dict[str, Any]:
    """A server that shares memory with no other: its first answer; its memory then, and once every row was read."""
    began = time.monotonic()
    with started(triton, folder, name) as subject:
        answer = subject.client().answer()
        found = answer(request.feed)
        took = time.monotonic() - began
        assert np.allclose(found, request.probability, rtol=0, atol=1e-5), name
        first, batch = subject.memory(), 4096
        for begin in range(0, max(sizes), batch):
            answer({"ids": np.stack([np.arange(begin, begin + batch) % size for size in sizes], axis=1)})
        return {"first_answer_s": took, "memory_first": first, "memory_all_rows": subject.memory()}


def one_round(subject: Subject, requests: list[Request], config: ServerBenchConfig) -> dict[str, Any]:
    """Single-stream, offline, and the highest rate within the p99."""
    cases: list[LoadResult] = []

    def measured(scenario: Any, qps: float | None = None) -> LoadResult:
        cases.append(
            drive(subject.client().answer, requests, scenario, workers=config.workers, seconds=config.seconds, qps=qps)
        )
        return cases[-1]

    alone = measured("single-stream")
    together = measured("offline", alone.qps * 1.5)
    best = highest_rate(lambda qps: measured("server", qps), config.slo_ms, together.qps)
    return {
        "max_qps": best,
        "offline_qps": together.qps,
        "alone_p50_ms": alone.p50_ms,
        "cases": [asdict(c) for c in cases],
    }


def requests_for(folder: Path, name: str, feeds: list[Any]) -> list[Request]:
    """With the answers of the subject's own bundle; of the dense one for PyTorch."""
    predictor = load(folder / "bundles" / ("onnx-dense" if name == "torch" else name))
    return [Request(feed, predictor.predict(feed, ["probability"])["probability"]) for feed in feeds]


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V, over all fields.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--batch", default=256, show_default=True, help="Rows of a request.")
@click.option("--slo-ms", default=10.0, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Of each load.")
@click.option("--rounds", default=4, show_default=True)
@click.option("--soak-seconds", default=600.0, show_default=True, help="Of the compact bundle, at 0.8 of its rate.")
@click.option("--triton", type=click.Path(path_type=Path), default=HERE.parent / ".triton", help="From make triton.")
def main(
    rows: int,
    out: Path,
    machine: str,
    batch: int,
    slo_ms: float,
    seconds: float,
    rounds: int,
    soak_seconds: float,
    triton: Path,
) -> None:
    """Ask each subject's server, round by round; then soak the compact one."""
    if not (triton / "installed").is_file():
        raise click.UsageError("no Triton Inference Server: make triton")
    os.environ["TORCH_SITE"] = sysconfig.get_path("purelib")
    out.mkdir(parents=True, exist_ok=True)
    config = ServerBenchConfig(batch=batch, slo_ms=slo_ms, seconds=seconds, soak_seconds=soak_seconds)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        frozen = freeze(planted_run(rows, HIDDEN, folder / "run"))
        bundles = make_repositories(frozen, folder, max(batch, 4096))
        rng = np.random.default_rng(0)
        feeds = [draw(frozen.config, frozen.vocabularies, batch, rng, "zipf") for _ in range(256)]
        requests = {name: requests_for(folder, name, feeds) for name in bundles}
        sizes = [field.size for field in frozen.config.embedded]
        starts = [{n: alone(triton, folder, n, requests[n][0], sizes) for n in bundles} for _ in range(3)]
        subjects = [stack.enter_context(started(triton, folder, name)) for name in bundles]
        found: dict[str, list[dict[str, Any]]] = {s.name: [] for s in subjects}
        for number in range(rounds):
            for subject in subjects[number % len(subjects) :] + subjects[: number % len(subjects)]:
                found[subject.name].append(one_round(subject, requests[subject.name], config))
                click.echo(f"round {number + 1} {subject.name}: {found[subject.name][-1]['max_qps']}")
        cases = [
            {
                "subject": name,
                **bundles[name],
                **{key: median(found[name], key) for key in ("max_qps", "offline_qps", "alone_p50_ms")},
                "first_answer_s": median([own[name] for own in starts], "first_answer_s"),
                "starts": [own[name] for own in starts],
                "rounds": found[name],
            }
            for name in bundles
        ]
        compact = next(s for s in subjects if s.name == "onnx-compact")
        rate = next(case["max_qps"] for case in cases if case["subject"] == compact.name)
        soak = {}
        if soak_seconds:
            answer: Callable[[], Any] = compact.client().answer
            soak = soaked(answer, requests[compact.name], config, compact.server.process.pid, SOAK * rate)
            click.echo(f"soak: {soak['requests']} requests, slope {soak['slope_bytes_per_minute']:.0f} bytes a minute")
    result = {
        "date": today(),
        "machine": describe_machine(),
        "settings": asdict(config),
        "rows": rows,
        "rounds": rounds,
    }
    write_json(out / f"{today()}-serving-{machine}.json", result | {"cases": cases, "soak": soak})


def median(rounds: list[dict[str, Any]], key: str) -> float:
    """Of the rounds; a round in which no rate held counts as none."""
    return statistics.median(float(own[key] or 0) for own in rounds)


if __name__ == "__main__":
    main()
