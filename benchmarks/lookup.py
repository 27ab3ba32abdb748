"""Lookups alone: every layout and value type against ONNX dense, FBGEMM, PyTorch, numpy and a plain C loop.

8 fields; dims are drawn evenly around their mean; ids are Zipf (1/rank, as rows are ordered) or uniform. One subject's
rows are not ordered, to see what the order of ids by falling count is worth. ONNX Runtime answers into a buffer that is
bound once; FBGEMM, PyTorch and numpy allocate their results, as their interfaces do.

    python benchmarks/lookup.py --out benchmarks/results
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from int8_peers import fill_int8
from torch import Tensor, nn

from amtl_export.bench.infer import torch_threads
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.cli.types import IntList
from amtl_export.errors import EnvironmentLacks
from amtl_export.files import write_json
from amtl_export.freezing.frozen import freeze
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.graph.rewrite import initializer, replace_value
from amtl_export.graph.trace import trace
from amtl_export.runtime.session import open_session
from amtl_export.spec import Feed
from amtl_export.tables.layout import LaidOut, Ragged, stored_bytes
from amtl_export.tables.plan import PlanConfig, lay_out, plan_table
from amtl_export.tables.values import stored

FIELDS = 8
TOUCHED_BYTES = 256 << 20

#: Every case is timed so often, some time apart: a neighbour's busy minute is in no median.
PASSES = 5

#: What quantized values may differ by, of numbers up to 1.
ALLOWED = {"fp16": 1e-3, "int8": 1e-2, "int4": 0.08}

Kind = tuple[int, str]  # batch, distribution of the ids

LAYOUTS = {
    "onnx-dense": PlanConfig("dense"),
    "onnx-dense-int8": PlanConfig("dense", "int8"),
    "onnx-dense-int4": PlanConfig("dense", "int4"),
    "onnx-paged": PlanConfig("paged"),
    "onnx-blocks": PlanConfig("blocks"),
    "onnx-ragged": PlanConfig("ragged"),
    "onnx-ragged-fp16": PlanConfig("ragged", "fp16"),
    "onnx-ragged-int8": PlanConfig("ragged", "int8"),
    "onnx-ragged-int4": PlanConfig("ragged", "int4"),
}


@dataclass(frozen=True)
class Point:
    """What is timed.

    Attributes:
        rows: V over all fields.
        dim: D.
        mean: mean dims as a part of D.
        threads: of every subject that has threads.
    """

    rows: int = 1_000_000
    dim: int = 64
    mean: float = 0.4
    threads: int = 1


class Lookups(nn.Module):
    """A table and nothing else."""

    def __init__(self, table: FrozenEmbedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `[B, F, D]` of ids `[B, F]`."""
        return self.table.lookup(ids, range(FIELDS))


def planted_table(point: Point) -> FrozenEmbedding:
    """Rows of dims drawn evenly from 1 to 2 · mean · D - 1, or from 2 · mean · D - D to D."""
    rng = np.random.default_rng(0)
    low, high = max(1, round((2 * point.mean - 1) * point.dim)), min(point.dim, round(2 * point.mean * point.dim) - 1)
    size = point.rows // FIELDS
    dims = torch.from_numpy(rng.integers(low, high + 1, size * FIELDS))
    rows = torch.empty(size * FIELDS, point.dim).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    rows *= torch.arange(point.dim) < dims.unsqueeze(1)
    return FrozenEmbedding(rows, dims, [size] * FIELDS, [i * size for i in range(FIELDS)])


def laid_out_as(table: FrozenEmbedding, config: PlanConfig) -> LaidOut:
    """A table as a config has it."""
    plan = plan_table(table, config)
    return lay_out(stored(table.rows.numpy(), plan.dtype), table.dims.numpy(), plan)


def traced(module: nn.Module, example: Tensor, output: str) -> ir.Model:
    """The graph of a module of one input and one output."""
    return trace(freeze(module, example=(example,), outputs=[output]))


def write_layout(table: FrozenEmbedding, config: PlanConfig, path: Path) -> int:
    """A lookup in one layout as a model; bytes of its arrays."""
    laid_out = laid_out_as(table, config)
    model = traced(Lookups(table), torch.zeros(3, FIELDS, dtype=torch.int64), "rows")
    LowerLookups({"table": laid_out}, "guard")(model)
    ir.save(model, path, external_data=f"{path.stem}.data", size_threshold_bytes=128)
    return stored_bytes(laid_out)


def write_block_quantized(table: FrozenEmbedding, path: Path) -> int:
    """The dense lookup with ONNX Runtime's own `GatherBlockQuantized` in its Gather's place; bytes of its arrays."""
    model = traced(Lookups(table), torch.zeros(3, FIELDS, dtype=torch.int64), "rows")
    LowerLookups({"table": laid_out_as(table, PlanConfig("dense"))}, "guard")(model)
    rows = table.rows.numpy()
    block = min(256, max(16, 1 << (rows.shape[1] - 1).bit_length()))
    starts = range(0, rows.shape[1], block)
    scales = np.stack([np.abs(rows[:, i : i + block]).max(axis=1) / 127 for i in starts], axis=1).astype(np.float32)
    wide = np.repeat(np.where(scales > 0, scales, 1), block, axis=1)[:, : rows.shape[1]]
    quantized = (np.rint(rows / wide) + 128).astype(np.uint8)
    (gather,) = [node for node in model.graph if node.op_type == "Gather"]
    arrays = [initializer(model.graph, name, array) for name, array in (("quantized", quantized), ("scales", scales))]
    about = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 8}
    new = ir.node("GatherBlockQuantized", [arrays[0], gather.inputs[1], arrays[1]], about, domain="com.microsoft")
    replace_value(model.graph, gather.outputs[0], new.outputs[0], [new])
    model.opset_imports["com.microsoft"] = 1
    passes.RemoveUnusedNodesPass()(model)
    ir.save(model, path, external_data=f"{path.stem}.data", size_threshold_bytes=128)
    return int(quantized.nbytes) + int(scales.nbytes)


class OnnxLookup:
    """A lookup in ONNX Runtime."""

    def __init__(self, name: str, path: Path, size: int, point: Point, *, native: bool) -> None:
        self.name, self.bytes = name, size
        self._session = open_session(path, threads=point.threads, native=native)
        self._dim = point.dim
        self._out: Any = None

    def prepare(self, feed: Feed) -> Any:
        """The request bound to its input, and one buffer for all results."""
        import onnxruntime

        ids = feed["ids"]
        shape = (*ids.shape, self._dim)
        if self._out is None or self._out.numpy().shape != shape:
            self._out = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32))
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("ids", onnxruntime.OrtValue.ortvalue_from_numpy(ids))
        binding.bind_ortvalue_output("rows", self._out)
        return binding

    def run(self, prepared: Any) -> npt.NDArray[np.float32]:
        """Rows `[B, F, D]`."""
        self._session.run_with_iobinding(prepared)
        rows: npt.NDArray[np.float32] = self._out.numpy()
        return rows


class Shuffled(OnnxLookup):
    """The ragged layout with each field's rows in no order, asked for the same rows."""

    def __init__(self, table: FrozenEmbedding, folder: Path, point: Point) -> None:
        rng, size = np.random.default_rng(3), table.sizes[0]
        self._place = np.stack([rng.permutation(size) for _ in range(FIELDS)])  # of each id, among its field's rows
        order = np.concatenate([np.argsort(own) + shift for own, shift in zip(self._place, table.offsets, strict=True)])
        mixed = FrozenEmbedding(table.rows[order], table.dims[order], table.sizes, table.offsets)
        path = folder / "shuffled.onnx"
        super().__init__(
            "onnx-ragged-shuffled", path, write_layout(mixed, PlanConfig("ragged"), path), point, native=True
        )

    def prepare(self, feed: Feed) -> Any:
        """Where the ids' rows are now."""
        return super().prepare({"ids": self._place[np.arange(FIELDS), feed["ids"]]})


class PlainLoop:
    """plain_loop.c over the ragged arrays, compiled with -O3 and called directly."""

    name = "plain-c-loop"

    def __init__(self, table: FrozenEmbedding, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise EnvironmentLacks("the plain loop needs a C compiler", fix="install gcc or clang")
        library, source = folder / "plain_loop.so", Path(__file__).with_name("plain_loop.c")
        subprocess.run([compiler, "-O3", "-march=native", "-fPIC", "-shared", source, "-o", library], check=True)
        laid_out = laid_out_as(table, PlanConfig("ragged"))
        assert isinstance(laid_out, Ragged)
        self._arrays, self.bytes = laid_out, stored_bytes(laid_out)
        self._sizes, self._shifts = (np.array(v, dtype=np.int64) for v in (table.sizes, table.offsets))
        self._call = ctypes.CDLL(str(library)).plain_loop
        self._out = np.empty(0, np.float32)

    def prepare(self, feed: Feed) -> Any:
        """Pointers."""
        ids, t = feed["ids"], self._arrays
        if self._out.size != ids.size * t.dim:
            self._out = np.empty((*ids.shape, t.dim), np.float32)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (t.values, t.block_offsets, t.row_offsets)]
        more = [ctypes.c_void_p(a.ctypes.data) for a in (ids, self._sizes, self._shifts)]
        numbers = [ctypes.c_int64(n) for n in (FIELDS, t.dim, ids.size)]
        return [*pointers, ctypes.c_int64(t.block_bits), *more, *numbers, ctypes.c_void_p(self._out.ctypes.data)]

    def run(self, prepared: Any) -> npt.NDArray[np.float32]:
        """Rows `[B, F, D]`."""
        self._call(*prepared)
        return self._out


class TorchEmbedding:
    """`torch.nn.functional.embedding` on the dense rows."""

    name = "torch-embedding"

    def __init__(self, table: FrozenEmbedding) -> None:
        self._rows, self._shifts = table.rows, torch.tensor(table.offsets)
        self.bytes = table.rows.numel() * 4

    def prepare(self, feed: Feed) -> Tensor:
        """Table rows."""
        return torch.from_numpy(feed["ids"]) + self._shifts

    def run(self, prepared: Tensor) -> Any:
        """Rows `[B, F, D]`."""
        with torch.inference_mode():
            return nn.functional.embedding(prepared, self._rows).numpy()


class NumpyTake:
    """`numpy.take` on the dense rows."""

    name = "numpy-take"

    def __init__(self, table: FrozenEmbedding) -> None:
        self._rows, self._shifts = table.rows.numpy(), np.array(table.offsets)
        self.bytes = self._rows.nbytes

    def prepare(self, feed: Feed) -> Any:
        """Table rows."""
        return feed["ids"] + self._shifts

    def run(self, prepared: Any) -> Any:
        """Rows `[B, F, D]`."""
        return self._rows.take(prepared, axis=0)


class Fbgemm:
    """FBGEMM's table-batched inference embeddings: a table a field, one id a bag."""

    def __init__(self, table: FrozenEmbedding, kind: str) -> None:
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

        self.name = f"fbgemm-{kind}"
        self._dim = table.rows.shape[1]
        values = SparseType.FP32 if kind == "fp32" else SparseType.INT8
        specs = [(str(i), size, self._dim, values, EmbeddingLocation.HOST) for i, size in enumerate(table.sizes)]
        self._op = IntNBitTableBatchedEmbeddingBagsCodegen(specs, device="cpu", output_dtype=SparseType.FP32)
        self._op.initialize_weights()
        self.bytes = 0
        parts = self._op.split_embedding_weights()
        for (rows, scales), size, shift in zip(parts, table.sizes, table.offsets, strict=True):
            own = table.rows[shift : shift + size]
            if kind == "fp32":
                rows[:, : 4 * self._dim] = own.contiguous().view(torch.uint8)
            else:
                fill_int8(rows, scales, own)
            self.bytes += rows.numel() + (scales.numel() if scales is not None else 0)

    def prepare(self, feed: Feed) -> tuple[Tensor, Tensor]:
        """Ids by table, and where each bag begins."""
        ids = torch.from_numpy(feed["ids"]).t().contiguous().flatten().int()
        return ids, torch.arange(len(ids) + 1, dtype=torch.int32)

    def run(self, prepared: tuple[Tensor, Tensor]) -> Any:
        """Rows `[B, F, D]`."""
        with torch.inference_mode():
            return self._op(*prepared).view(-1, FIELDS, self._dim).numpy()


def subjects_of(point: Point, table: FrozenEmbedding, folder: Path, peers: Sequence[str]) -> Iterator[Subject]:
    """Everyone who is timed."""
    sizes = {name: write_layout(table, config, folder / f"{name}.onnx") for name, config in LAYOUTS.items()}
    for name, size in sizes.items():
        yield OnnxLookup(name, folder / f"{name}.onnx", size, point, native=True)
    fallback = (
        folder / "fallback.onnx"
    )  # of its own: in a file of two subjects each would find rows that the other just read
    yield OnnxLookup(
        "onnx-ragged-fallback", fallback, write_layout(table, LAYOUTS["onnx-ragged"], fallback), point, native=False
    )
    quantized = folder / "block-quantized.onnx"
    yield OnnxLookup("onnx-dense-int8-block", quantized, write_block_quantized(table, quantized), point, native=False)
    yield Shuffled(table, folder, point)
    yield PlainLoop(table, folder)
    yield NumpyTake(table)
    if point.threads > 1:
        alone = folder / "one-thread.onnx"
        size = write_layout(table, LAYOUTS["onnx-ragged"], alone)
        yield OnnxLookup("onnx-ragged-one-thread", alone, size, replace(point, threads=1), native=True)
    else:  # thread pools of several runtimes would spin on each other's cores
        yield TorchEmbedding(table)
        yield from (Fbgemm(table, kind.removeprefix("fbgemm-")) for kind in peers)


def check(subjects: Sequence[Subject], table: FrozenEmbedding) -> None:
    """Every subject answers the same ids: exactly in full precision, within a rounding otherwise."""
    ids = np.random.default_rng(1).integers(0, table.sizes[0], (50, FIELDS))
    expected = table.rows.numpy()[ids + np.array(table.offsets)]
    for subject in subjects:
        found = np.array(subject.run(subject.prepare({"ids": ids})))
        allowed = next((most for name, most in ALLOWED.items() if name in subject.name), 0.0)
        assert np.abs(found.reshape(expected.shape) - expected).max() <= allowed, subject.name


def make_feeds(point: Point, batch: int, distribution: str) -> list[Feed]:
    """Requests whose rows together outgrow the caches."""
    rng = np.random.default_rng(np.random.SeedSequence([7, batch]))
    size, count = point.rows // FIELDS, int(np.clip(TOUCHED_BYTES // (batch * FIELDS * point.dim * 4), 8, 256))
    feeds = []
    for _ in range(count):
        even = rng.random((batch, FIELDS))
        ids = size**even - 1 if distribution == "zipf" else even * size  # density 1/rank: the logarithm is even
        feeds.append({"ids": np.minimum(ids.astype(np.int64), size - 1)})
    return feeds


#: The point of docs/benchmarks/lookups.md at every batch size, then one thing changed at a time.
POINTS: tuple[tuple[Point, tuple[int, ...]], ...] = (
    (Point(), (1, 16, 64, 256, 1024, 4096)),
    (Point(rows=100_000), (64, 1024)),
    (Point(rows=10_000_000), (64, 1024)),
    (Point(mean=0.2), (64, 1024)),
    (Point(mean=0.8), (64, 1024)),
    (Point(dim=16), (64, 1024)),
    (Point(dim=300), (64, 1024)),
    (Point(threads=2), (64, 1024, 4096)),
)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=3.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--rows", type=int, help="One small table instead of all points, for a try.")
@click.option("--batch", type=IntList(), help="These batch sizes alone.")
@click.option(
    "--fbgemm/--no-fbgemm", default=True, show_default=True, help="FBGEMM (pip install fbgemm-gpu-cpu==1.8.0)."
)
def main(
    out: Path, machine: str, seconds: float, rows: int | None, batch: tuple[int, ...] | None, fbgemm: bool
) -> None:
    """Time lookups alone."""
    out.mkdir(parents=True, exist_ok=True)
    chosen: Sequence[tuple[Point, tuple[int, ...]]] = [(Point(rows=rows), batch or (64,))] if rows else POINTS
    cases = []
    for point, batches in chosen:
        table = planted_table(point)
        with tempfile.TemporaryDirectory() as folder, torch_threads(point.threads):
            peers = ("fbgemm-fp32", "fbgemm-int8") if fbgemm else ()
            subjects = list(subjects_of(point, table, Path(folder), peers))
            check(subjects, table)
            kinds = list(itertools.product(batch or batches, ("zipf", "uniform")))
            feeds = {kind: make_feeds(point, *kind) for kind in kinds}
            times: dict[Kind, dict[str, list[int]]] = {kind: {s.name: [] for s in subjects} for kind in kinds}
            for _, kind in itertools.product(range(PASSES), kinds):
                for name, own in interleave(subjects, feeds[kind], seconds=seconds / PASSES).items():
                    times[kind][name] += own
            for size, distribution in kinds:
                found = {
                    subject.name: Latency.of(times[size, distribution][subject.name], size) for subject in subjects
                }
                about = {"batch": size, "ids": distribution, **asdict(point)}
                cases += [about | {"subject": s.name, **asdict(found[s.name]), "bytes": s.bytes} for s in subjects]
                dense = found["onnx-dense"].p50_us
                ratios = "  ".join(f"{name} {latency.p50_us / dense:.2f}" for name, latency in found.items())
                click.echo(f"{point} batch {size}, {distribution}: onnx-dense {dense:.0f} µs; against it {ratios}")
    report = {"date": today(), "machine": describe_machine(), "fields": FIELDS, "cases": cases}
    write_json(out / f"{today()}-lookup-{machine}.json", report)


if __name__ == "__main__":
    main()
