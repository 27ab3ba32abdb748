"""What a step of training takes over a large table: AMTL's beside FBE's, and the table's optimizers.

python benchmarks/epoch.py --out benchmarks/results

Methods take turns, a step each, so that noise is everyone's. With one thread CPU time is what a step takes; the wall
clock also has what other processes of the machine take.
"""

from __future__ import annotations

import importlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.bench.machine import describe_machine, today
from amtl_export.data.encode import Rows
from amtl_export.data.packed_ids import PackedIds
from amtl_export.files import write_json
from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import reproducible
from amtl_export.training.observer import Silent
from amtl_export.training.state import TrainState
from amtl_export.training.table_optimizers import RowDecayAdam, RowwiseAdagrad

Optimizer = Literal["adam", "rowwise-adagrad"]

#: Who takes steps: method and the table's optimizer. Ratios are to the first of the same optimizer.
SUBJECTS: tuple[tuple[Optimizer, str], ...] = (
    ("adam", "fbe"),
    ("adam", "amtl"),
    ("rowwise-adagrad", "fbe"),
    ("rowwise-adagrad", "amtl"),
)
_BATCHES, _WARM, _EXPONENT = 8, 3, 1.05
Case = dict[str, Any]


def drawn(values: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Zipf ids of one field."""
    cumulative = np.cumsum(np.arange(1, values + 1) ** -_EXPONENT)
    ids: npt.NDArray[np.int64] = np.searchsorted(cumulative, rng.random(count) * cumulative[-1])
    return np.minimum(ids, values - 1)


def batches(values: int, fields: int, batch: int) -> Rows:
    """Examples of single-valued fields with as many values each."""
    rng = np.random.default_rng(0)
    ids = np.stack([drawn(values // fields, batch * _BATCHES, rng) for _ in range(fields)], axis=1).astype(np.int32)
    labels = rng.integers(0, 2, (len(ids), 1)).astype(np.uint8)
    packed = PackedIds(ids.view(np.uint8), (ids.dtype,) * fields)
    return Rows(packed, np.zeros((len(ids), 0), np.float32), {}, labels)


def started(method: str, optimizer: Optimizer, values: int, fields: int, dim: int, batch: int) -> TrainState:
    """A new model with the settings that `train` has by default."""
    config = TrainConfig(data="drawn", method=method, dim=dim, batch_size=batch, table_optimizer=optimizer)
    counts = torch.from_numpy(1e7 * np.arange(1, values // fields + 1) ** -_EXPONENT).long() + 1
    torch.manual_seed(0)
    model = CtrModel(
        ModelConfig(
            embedded=tuple(EmbeddedField(f"field_{i}", len(counts)) for i in range(fields)),
            dim=dim,
            method=method,
            hidden=config.hidden,
            dropout=config.dropout,
            embedding_dropout=config.embedding_dropout,
            sparse=True,
        ),
        [counts] * fields,
    )
    return TrainState.start(model, config)


def turns(steps: dict[Any, Callable[[int], object]], rounds: int) -> dict[Any, dict[str, float]]:
    """Milliseconds of a step, medians over rounds: CPU time of all threads, and the wall clock's."""
    taken: dict[Any, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + _WARM):
        for name, step in steps.items():
            begin = time.process_time(), time.perf_counter()
            step(number)
            taken[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    return {
        name: {key: statistics.median(own[i] for own in times[_WARM:]) * 1e3 for i, key in enumerate(("cpu_ms", "ms"))}
        for name, times in taken.items()
    }


def measure_steps(values: int, fields: int, dim: int, batch: int, rounds: int) -> Iterator[Case]:
    """A whole step of training, of each method with each optimizer of the table."""
    rows = batches(values, fields, batch)
    parts = [rows.take(slice(i * batch, (i + 1) * batch)) for i in range(_BATCHES)]
    states = {subject: started(subject[1], subject[0], values, fields, dim, batch) for subject in SUBJECTS}

    def stepping(state: TrainState) -> Callable[[int], object]:
        return lambda number: state.pass_over(parts[number % _BATCHES], rows, 1, Silent())

    found = turns({subject: stepping(state) for subject, state in states.items()}, rounds)
    for (optimizer, method), own in found.items():
        first = found[optimizer, "fbe"]
        case = {"method": method, "table_optimizer": optimizer, "fields": fields, "dim": dim, "batch": batch} | own
        yield case | {"cpu_ratio": own["cpu_ms"] / first["cpu_ms"], "ratio": own["ms"] / first["ms"]}


def fused(values: int, dim: int) -> Callable[[Tensor], Tensor] | None:
    """FBGEMM's table, whose backward pass is the step too; None where FBGEMM is not installed."""
    try:
        tables = importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_training")
        configs = importlib.import_module("fbgemm_gpu.split_embedding_configs")
    except ImportError:
        return None
    made = tables.SplitTableBatchedEmbeddingBagsCodegen(
        [(values, dim, tables.EmbeddingLocation.HOST, tables.ComputeDevice.CPU)],
        optimizer=configs.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=tables.PoolingMode.NONE,
    )
    return lambda ids: made(ids, torch.arange(len(ids) + 1))


def measure_table(values: int, dim: int, count: int, rounds: int) -> Iterator[Case]:
    """Lookup, gradient and step of the table alone."""
    rng = np.random.default_rng(0)
    ids = [torch.from_numpy(drawn(values, count, rng)) for _ in range(_BATCHES)]
    gradient = torch.randn(count, dim)

    def stepping(kind: Callable[..., torch.optim.Optimizer]) -> Callable[[int], object]:
        table = nn.Parameter(torch.zeros(values, dim))
        optimizer = kind([table], 1e-3, 0.0)

        def step(number: int) -> None:
            optimizer.zero_grad()
            F.embedding(ids[number % _BATCHES], table, sparse=True).backward(gradient)
            optimizer.step()

        return step

    steps = {"adam": stepping(RowDecayAdam), "rowwise-adagrad": stepping(RowwiseAdagrad)}
    if (theirs := fused(values, dim)) is not None:
        steps["fbgemm rowwise-adagrad"] = lambda number: theirs(ids[number % _BATCHES]).backward(gradient)
    for name, own in turns(steps, rounds).items():
        yield {"subject": name, "values": values, "dim": dim, "ids": count} | own


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@click.command()
@click.option("--values", default=1_000_000, show_default=True, help="V of all fields together.")
@click.option("--fields", default="2,8", show_default=True)
@click.option("--dim", default="16,64", show_default=True)
@click.option("--batch", default="2048,8192", show_default=True)
@click.option("--table-values", default="1000000,5000000", show_default=True, help="V of a table alone.")
@click.option("--table-ids", default="4096,16384,65536", show_default=True, help="Ids of a step of a table alone.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=40, show_default=True, help="Steps of each.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(
    values: int,
    fields: str,
    dim: str,
    batch: str,
    table_values: str,
    table_ids: str,
    threads: int,
    rounds: int,
    out: Path,
    machine: str,
) -> None:
    """Measure."""
    torch.set_num_threads(threads)
    steps: list[Case] = []
    tables: list[Case] = []
    with reproducible(0):
        for asked in itertools.product(numbers(fields), numbers(dim), numbers(batch)):
            steps += (found := list(measure_steps(values, *asked, rounds)))
            for case in found:
                click.echo(
                    " ".join(f"{key}={own:.4g}" if isinstance(own, float) else str(own) for key, own in case.items())
                )
        for size, width, count in itertools.product(numbers(table_values), numbers(dim), numbers(table_ids)):
            tables += (found := list(measure_table(size, width, count, rounds)))
            for case in found:
                click.echo(f"{case['subject']}, {size:,} x {width}, {count:,} ids: {case['cpu_ms']:.2f} ms")
    out.mkdir(parents=True, exist_ok=True)
    report = {"date": today(), "machine": describe_machine(), "threads": threads, "values": values, "rounds": rounds}
    suffix = "" if threads == 1 else f"-threads{threads}"
    write_json(out / f"{today()}-epoch-{machine}{suffix}.json", report | {"steps": steps, "tables": tables})


if __name__ == "__main__":
    main()
