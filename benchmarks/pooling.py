"""A multi-valued field: rows looked up and added up, against a dense lookup with a sum, and PyTorch's EmbeddingBag.

python benchmarks/pooling.py --out benchmarks/results
python benchmarks/pooling.py --rows 1000 --dim 9 --length 6 --name pooling-few --out benchmarks/results
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import torch
from lookup import Point, laid_out_as, planted_table, traced
from torch import Tensor, nn

from amtl_export.bench.infer import torch_threads
from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.cli.types import IntList
from amtl_export.files import write_json
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.graph.passes.fuse_sums import FEW, NARROW, FuseSums
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.runtime.session import open_session
from amtl_export.spec import Feed
from amtl_export.tables.plan import PlanConfig

#: Of a dense table whose rows are looked up values first, which export does where they are narrow and few.
VALUES_FIRST = "onnx-values-first"

SUBJECTS = {
    "onnx-dense": PlanConfig("dense"),
    VALUES_FIRST: PlanConfig("dense"),
    "onnx-paged": PlanConfig("paged"),
    "ragged-gather": PlanConfig("ragged"),
    "ragged-sum": PlanConfig("ragged"),
    "ragged-sum-int8": PlanConfig("ragged", "int8"),
}


class Pooled(nn.Module):
    """A lookup and the sum of its rows."""

    def __init__(self, table: FrozenEmbedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        """`[B, D]` of ids `[B, L]`."""
        return self.table.lookup(ids, [0]).sum(dim=1)


class Part:
    """One layout in ONNX Runtime."""

    bytes = 0

    def __init__(self, name: str, table: FrozenEmbedding, folder: Path, length: int) -> None:
        self.name = name
        model = traced(Pooled(table), torch.zeros(3, length, dtype=torch.int64), "total")
        if name.startswith("ragged-sum"):
            FuseSums(["table"])(model)
        if name == VALUES_FIRST:
            FuseSums([], ["table"])(model)
        LowerLookups({"table": laid_out_as(table, SUBJECTS[name])}, "guard")(model)
        ir.save(model, folder / f"{name}.onnx", external_data=f"{name}.data", size_threshold_bytes=128)
        self._session = open_session(folder / f"{name}.onnx", native=True)

    def prepare(self, feed: Feed) -> Feed:
        """As it is."""
        return feed

    def run(self, prepared: Feed) -> Any:
        """Sums `[B, D]`."""
        return self._session.run(["total"], prepared)[0]


class EmbeddingBag:
    """`torch.nn.functional.embedding_bag` on the dense rows."""

    name, bytes = "torch-embedding-bag", 0

    def __init__(self, table: FrozenEmbedding) -> None:
        self._rows = table.rows

    def prepare(self, feed: Feed) -> Tensor:
        """Ids."""
        return torch.from_numpy(feed["ids"])

    def run(self, prepared: Tensor) -> Any:
        """Sums `[B, D]`."""
        with torch.inference_mode():
            return nn.functional.embedding_bag(prepared, self._rows, mode="sum").numpy()


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V.")
@click.option("--dim", default=Point.dim, show_default=True, help="D.")
@click.option("--length", default=50, show_default=True, help="Values of an example.")
@click.option("--name", default="pooling", show_default=True, help="In the file's name.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=3.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--batch", type=IntList(), default="1,16,256", show_default=True, help="Batch sizes.")
def main(
    rows: int, dim: int, length: int, name: str, out: Path, machine: str, seconds: float, batch: tuple[int, ...]
) -> None:
    """Time pooled lookups."""
    out.mkdir(parents=True, exist_ok=True)
    point, cases = Point(rows=rows, dim=dim), []
    timed = [own for own in SUBJECTS if own != VALUES_FIRST or (length <= FEW and dim <= NARROW)]
    whole = planted_table(point)
    table = FrozenEmbedding(whole.rows, whole.dims, [len(whole.dims)], [0])
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        subjects: list[Subject] = [*(Part(own, table, Path(folder), length) for own in timed), EmbeddingBag(table)]
        for size, distribution in itertools.product(batch, ("zipf", "uniform")):
            rng = np.random.default_rng(size)
            drawn = rng.random((int(np.clip(20_000 // size, 20, 256)), size, length))
            ids = np.minimum((rows**drawn - 1 if distribution == "zipf" else drawn * rows).astype(np.int64), rows - 1)
            times = interleave(subjects, [{"ids": own} for own in ids], seconds=seconds)
            found = {name: Latency.of(own, size) for name, own in times.items()}
            about = {"batch": size, "length": length, "ids": distribution, **asdict(point)}
            cases += [about | {"subject": name, **asdict(latency)} for name, latency in found.items()]
            dense = found["onnx-dense"].p50_us
            ratios = "  ".join(f"{name} {latency.p50_us / dense:.2f}" for name, latency in found.items())
            click.echo(f"batch {size}, {distribution}: onnx-dense {dense:,.0f} µs; against it {ratios}")
    report = {"date": today(), "machine": describe_machine(), "cases": cases}
    write_json(out / f"{today()}-{name}-{machine}.json", report)


if __name__ == "__main__":
    main()
