"""How long lookups, and whole models, take on the device."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card import Card
from lookup import Point, make_feeds, planted_table, write_layout
from planted import Planted
from subjects import Copied, Resident, Torch
from torch.nn.functional import embedding

from amtl_export.bench.subjects import OnnxSubject, dense_torch
from amtl_export.bench.timing import Latency, Subject, interleave
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.runtime.cuda import Cuda
from amtl_export.tables.plan import PlanConfig
from amtl_export.traffic.draw import draw

LAYOUTS = {
    "onnx-dense": PlanConfig("dense"),
    "onnx-paged": PlanConfig("paged"),
    "onnx-ragged": PlanConfig("ragged"),
    "onnx-ragged-fp16": PlanConfig("ragged", "fp16"),
    "onnx-ragged-int8": PlanConfig("ragged", "int8"),
    "onnx-ragged-int4": PlanConfig("ragged", "int4"),
}

#: Requests that take turns: ids and answers of a few are larger than a card's second-level cache.
FEEDS = 4
PASSES, RUNS = 9, 20


def lookups(card: Card, rows: int, batches: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Lookups alone, requests asked for without waiting: seconds of each, and the part of a copy's rate that it moves.

    Bytes moved are the surviving numbers that are read and the floats that are written.
    """
    point = Point(rows=rows)
    table = planted_table(point)
    bytes_of = {}
    for name, config in LAYOUTS.items():
        (folder / name).mkdir(parents=True)
        bytes_of[name] = write_layout(table, config, folder / name / "model.onnx")
    ours = {
        name: Resident(name, folder / name, card, native=config.layout == "ragged" or None, output="rows")
        for name, config in LAYOUTS.items()
    }
    there, shifts = table.rows.to(card.kind), torch.tensor(table.offsets, device=card.kind)
    copied = card.copied_bytes_per_second()
    cases = []
    for batch in batches:
        for distribution in ("zipf", "uniform"):
            feeds = make_feeds(point, batch, distribution)[:FEEDS]
            works: dict[str, list[Callable[[], object]]] = {}
            for name, own in ours.items():
                bounds = [own.prepare(feed) for feed in feeds]
                works[name] = [partial(bound.run, wait=False) for bound in bounds]
            placed = [torch.from_numpy(feed["ids"]).to(card.kind) + shifts for feed in feeds]
            works["torch-embedding"] = [partial(embedding, ids, there) for ids in placed]
            kept = statistics.mean(
                float(table.dims[torch.from_numpy(f["ids"] + np.array(table.offsets))].sum()) for f in feeds
            )
            numbers = feeds[0]["ids"].size * point.dim
            for name, seconds in in_turns(card, works).items():
                width = {"fp16": 2, "int8": 1, "int4": 0.5}.get(name.rpartition("-")[2], 4)
                read = numbers if name in ("onnx-dense", "torch-embedding") else kept
                rate = (read * width + numbers * 4) / seconds
                about = {"batch": batch, "ids": distribution, "subject": name, "us": seconds * 1e6}
                cases.append(about | {"of_copy": rate / copied, "bytes": bytes_of.get(name, table.rows.numel() * 4)})
    return {"copied_bytes_per_second": copied, **asdict(point), "cases": cases}


def in_turns(card: Card, works: dict[str, list[Callable[[], object]]]) -> dict[str, float]:
    """Name → seconds of one run, median of passes in which every subject had its turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    order = np.random.default_rng(0)
    names = list(works)
    for own in works.values():
        for work in own * 3:  # a graph is recorded after a first run
            work()
    for _ in range(PASSES):
        for place in order.permutation(len(names)):
            turns = itertools.cycle(works[names[place]])
            found[names[place]].append(card.seconds(partial(_next, turns), RUNS))
    return {name: statistics.median(own) for name, own in found.items()}


def _next(turns: Iterator[Callable[[], object]]) -> object:
    return next(turns)()


def models(card: Card, planted: Planted, batches: tuple[int, ...], seconds: float, *, compiled: bool) -> dict[str, Any]:
    """Whole models by batch, requests on the device and copied; first answers; what kernels take at the least batch."""
    frozen, rng = planted.frozen, np.random.default_rng(0)
    feeds = {
        batch: [draw(frozen.config, frozen.vocabularies, batch, rng, "zipf") for _ in range(FEEDS)] for batch in batches
    }
    starts, subjects = {}, list[Subject]()
    for name, bundle in planted.bundles.items():
        began = time.perf_counter()
        own = Resident(name, bundle.path, card)
        loaded = time.perf_counter() - began
        first = Copied(name, bundle.path, card)
        began = time.perf_counter()
        first.run(first.prepare(feeds[batches[0]][0]))
        starts[name] = {"load_s": loaded, "first_answer_s": time.perf_counter() - began}
        subjects += [own, first]
        if card.kind == "cuda" and not name.endswith(("fp16", "int8", "int4")):
            subjects.append(Resident(f"{name}-no-graph", bundle.path, card, graphs=False))
        subjects.append(OnnxSubject(f"{name}-predict", bundle, card.kind, 1))
    cases: list[dict[str, Any]] = []
    kernels: dict[str, Any] = {}
    for batch in batches:
        eager = [Torch("torch-eager", dense_torch(frozen).model, card, copied=copied) for copied in (False, True)]
        torch.compiler.reset()
        both = [Torch("torch-compile", dense_torch(frozen).model, card, compiled=True, copied=c) for c in (False, True)]
        everyone = [*subjects, *eager, *(both if compiled else [])]
        times = interleave(everyone, feeds[batch], seconds=seconds)
        cases += [
            {"batch": batch, "subject": s.name, **asdict(Latency.of(times[s.name], batch)), "bytes": s.bytes}
            for s in everyone
        ]
        if batch == min(batches) and card.kind == "cuda":
            for subject in (s for s in everyone if not s.name.endswith(("-copied", "-predict"))):
                request = subject.prepare(feeds[batch][0])
                for _ in range(3):
                    subject.run(request)
                kernels[subject.name] = card.kernels_us(partial(subject.run, request))
    return {"starts": starts, "cases": cases, "kernels_us": kernels}


def compressed(
    card: Card, planted: Planted, batches: tuple[int, ...], seconds: float, folder: Path
) -> list[dict[str, Any]]:
    """The planted model cut to a tenth in principal order, beside itself: requests and answers on the device."""
    frozen, rng = planted.frozen, np.random.default_rng(0)
    requests = [(draw(frozen.config, frozen.vocabularies, 4096, rng, "zipf"), None) for _ in range(FEEDS)]
    cut = compress(frozen, dim_budget=0.1, batches=requests, dtype="fp32", all_fields=True, curve=False)
    bundles = {"onnx-dense": planted.bundles["onnx-dense"]} | {
        f"compressed-{layout}": export(cut, folder / layout, ExportConfig(layout=layout))
        for layout in ("dense", "blocks", "ragged")
    }
    subjects: list[Subject] = [Resident(name, bundle.path, card) for name, bundle in bundles.items()]
    cases = []
    for batch in batches:
        rng = np.random.default_rng(batch)
        feeds = [draw(cut.config, cut.vocabularies, batch, rng, "zipf") for _ in range(FEEDS)]
        times = interleave(subjects, feeds, seconds=seconds)
        cases += [
            {"batch": batch, "subject": s.name, **asdict(Latency.of(times[s.name], batch)), "bytes": s.bytes}
            for s in subjects
        ]
    return cases


def tables_on_cpu(planted: Planted, batches: tuple[int, ...], seconds: float) -> list[dict[str, Any]]:
    """What it costs to keep the tables in the machine's memory: the same bundle, copies counted."""
    bundle, frozen = planted.bundles["onnx-ragged"], planted.frozen
    subjects: list[Subject] = [
        OnnxSubject("tables-on-gpu", bundle, "cuda", 1),
        OnnxSubject("tables-on-cpu", bundle, "cuda", 1, cuda=Cuda(tables="cpu")),
        OnnxSubject("all-on-cpu", bundle, "cpu", 1),
    ]
    cases = []
    for batch in batches:
        rng = np.random.default_rng(batch)
        feeds = [draw(frozen.config, frozen.vocabularies, batch, rng, "zipf") for _ in range(FEEDS)]
        times = interleave(subjects, feeds, seconds=seconds)
        cases += [{"batch": batch, "subject": s.name, **asdict(Latency.of(times[s.name], batch))} for s in subjects]
    return cases
