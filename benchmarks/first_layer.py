"""How far the fused layer is from ONNX Runtime's own Gemm: a lookup and one linear layer, and each part alone.

Useful operations are two for each surviving number and output, also where a row of several examples is multiplied once;
a plain layer makes two for each of F · D.

    python benchmarks/first_layer.py --out benchmarks/results
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
from lookup import FIELDS, Point, laid_out_as, make_feeds, planted_table, traced
from torch import Tensor, nn

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bench.timing import Latency, interleave
from amtl_export.cli.types import IntList
from amtl_export.files import write_json
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.graph.passes.fuse_first_layers import FuseFirstLayers
from amtl_export.graph.passes.lower_lookups import LowerLookups
from amtl_export.runtime.session import open_session
from amtl_export.spec import Feed
from amtl_export.tables.plan import PlanConfig, plan_table


class Layer(nn.Module):
    """A lookup (unless it is left out) and a linear layer (likewise)."""

    def __init__(self, table: FrozenEmbedding | None, linear: nn.Linear | None) -> None:
        super().__init__()
        self.table, self.linear = table, linear

    def forward(self, x: Tensor) -> Tensor:
        """`[B, outputs]` of ids `[B, F]` or rows `[B, F · D]`."""
        if self.table is not None:
            x = self.table.lookup(x, range(FIELDS)).flatten(1)
        return x if self.linear is None else torch.relu(self.linear(x))


class Part:
    """One graph in ONNX Runtime; `rows` feeds it numbers in place of ids."""

    def __init__(self, name: str, module: Layer, config: PlanConfig, folder: Path, dim: int) -> None:
        self.name, self.rows, self.bytes = name, module.table is None, 0
        example = torch.zeros(3, FIELDS * dim) if self.rows else torch.zeros(3, FIELDS, dtype=torch.int64)
        model = traced(module, example, "y")
        if module.table is not None:
            if plan_table(module.table, config).fused:
                FuseFirstLayers(["table"], int8=config.layer_dtype == "int8")(model)
            LowerLookups({"table": laid_out_as(module.table, config)}, "guard")(model)
        ir.save(model, folder / f"{name}.onnx", external_data=f"{name}.data", size_threshold_bytes=128)
        self._session, self._dim = open_session(folder / f"{name}.onnx", native=True), dim

    def prepare(self, feed: Feed) -> Feed:
        """Ids, or as many numbers as their rows have."""
        shape = (len(feed["ids"]), FIELDS * self._dim)
        return {"x": np.ones(shape, np.float32) if self.rows else feed["ids"]}

    def run(self, prepared: Feed) -> Any:
        """Results `[B, …]`."""
        return self._session.run(["y"], prepared)[0]


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="V, over all fields.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--seconds", default=3.0, show_default=True, help="For each batch size and id distribution.")
@click.option("--batch", type=IntList(), default="1,64,256,1024,4096", show_default=True, help="Batch sizes.")
@click.option("--outputs", default=256, show_default=True, help="Of the layer.")
def main(rows: int, out: Path, machine: str, seconds: float, batch: tuple[int, ...], outputs: int) -> None:
    """Time a lookup, a layer, and both, plain and fused."""
    out.mkdir(parents=True, exist_ok=True)
    point = Point(rows=rows)
    table, linear = planted_table(point), nn.Linear(FIELDS * point.dim, outputs)
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, fused = PlanConfig("ragged", first_layer="plain"), PlanConfig("ragged", first_layer="fused")
        dense, codes = PlanConfig("dense"), PlanConfig("ragged", "int8", layer_dtype="int8")
        parts = [
            Part("gemm-alone", Layer(None, linear), dense, folder, point.dim),
            Part("ragged-gather-alone", Layer(table, None), plain, folder, point.dim),
            Part("dense-gather-gemm", Layer(table, linear), dense, folder, point.dim),
            Part("ragged-gather-gemm", Layer(table, linear), plain, folder, point.dim),
            Part("ragged-linear", Layer(table, linear), fused, folder, point.dim),
            Part("ragged-linear-int8", Layer(table, linear), codes, folder, point.dim),
        ]
        for size, distribution in itertools.product(batch, ("zipf", "uniform")):
            feeds = make_feeds(point, size, distribution)
            places = torch.from_numpy(feeds[0]["ids"]) + torch.tensor(table.offsets)
            kept = float(table.dims[places].double().mean()) / point.dim
            found = {n: Latency.of(t, size) for n, t in interleave(parts, feeds, seconds=seconds).items()}
            full = 2e-3 * size * FIELDS * point.dim * outputs  # thousand operations a microsecond: 10⁹ a second
            rates = {
                "gemm-alone": full / found["gemm-alone"].p50_us,
                "ragged-linear": kept * full / found["ragged-linear"].p50_us,
                "ragged-linear-int8": kept * full / found["ragged-linear-int8"].p50_us,
                "ragged-linear-less-lookup": kept
                * full
                / max(found["ragged-linear"].p50_us - found["ragged-gather-alone"].p50_us, 1e-9),
            }
            about = {"batch": size, "ids": distribution, "outputs": outputs, "kept": kept, **asdict(point)}
            cases += [about | {"subject": n, **asdict(latency)} for n, latency in found.items()]
            cases.append(about | {"subject": "useful-gflops", **rates})
            shown = "  ".join(f"{n} {latency.p50_us:,.0f} µs" for n, latency in found.items())
            click.echo(
                f"batch {size}, {distribution}: {shown}; " + "  ".join(f"{n} {r:.0f} GFLOP/s" for n, r in rates.items())
            )
    report = {"date": today(), "machine": describe_machine(), "threads": 1, "fields": FIELDS, "cases": cases}
    write_json(out / f"{today()}-first-layer-{machine}.json", report)


if __name__ == "__main__":
    main()
