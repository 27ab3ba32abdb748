"""Scoring on Ray: workers that open the bundle once, and are given a file at a time.

A file's scores appear whole or not at all and are the same whoever writes them. So Ray may give a file out again whose
worker died: no row is lost, and none is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amtl_export.bundle.bundle import open_bundle
from amtl_export.cluster import RETRIES, check_shared, connected, not_shared, room, said, shared
from amtl_export.data.source import Files
from amtl_export.errors import InputError, os_errors
from amtl_export.scoring.parts import PartWriter, Scored, Task
from amtl_export.scoring.scorer import Scorer
from amtl_export.stages import stage


@dataclass(frozen=True)
class Order:
    """What every worker is told.

    Attributes:
        bundle: its folder.
        sums: the bytes of its SHA256SUMS.
        outputs: of the bundle, that are asked for.
        files: of the data, with what is joined to them.
        sizes: file → bytes.
        batch: rows of a call of the graph.
        threads: batches that a worker answers at a time.
        mark: see `cluster.shared`.
    """

    bundle: Path
    sums: bytes
    outputs: tuple[str, ...]
    files: Files
    sizes: Mapping[str, int]
    batch: int
    threads: int
    mark: Path


class Worker:
    """A process that scores files; it opens the bundle with the first one, so that what fails is said by an error."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._opened: tuple[PartWriter, ThreadPoolExecutor] | None = None

    def score(self, task: Task, order: Sequence[Any]) -> Scored:
        """Write the part of a file; see `PartWriter.write`.

        Args:
            task: the file, its path absolute.
            order: one reference to an `Order`, which stays with the caller: Ray may start this worker again.

        Raises:
            EnvironmentLacks: bundle, data or output folder are not here.
            InputError: the file cannot be read, or a value cannot be used.
        """
        self._order = self._order or _got(order[0])
        check_shared(self._order.mark)
        with os_errors("writing scores", task.part):
            if not task.file.path.is_file() or task.file.path.stat().st_size != self._order.sizes[task.file.name]:
                raise not_shared("a data file, as it was when the work began,", task.file.path)
            self._opened = self._opened or _open(self._order)
            writer, pool = self._opened
            return writer.write(task, pool)


def _got(order: Any) -> Order:
    import ray

    got: Order = ray.get(order)
    return got


def _open(order: Order) -> tuple[PartWriter, ThreadPoolExecutor]:
    sums = order.bundle / "SHA256SUMS"
    if not sums.is_file() or sums.read_bytes() != order.sums:
        raise not_shared("the bundle", order.bundle)
    scorer = Scorer.open(open_bundle(order.bundle), order.outputs)
    return PartWriter(scorer, order.files, order.batch), ThreadPoolExecutor(order.threads)


def on_ray(
    writer: PartWriter, tasks: Sequence[Task], threads: int | None, address: str, workers: int | None
) -> Iterator[Scored]:
    """Score files on a cluster, a file of each worker at a time, in the order in which they are done.

    Args:
        writer: what a worker opens again for itself.
        tasks: what is to be done; the parts have absolute paths, in one folder.
        threads: cores of a worker; None is one.
        address: as `ray.init` takes it, or `local`.
        workers: processes; None takes as many as the cluster has cores for.

    Raises:
        EnvironmentLacks: Ray is missing or cannot be reached, a worker lacks something, or workers die again and again.
        InputError: a file cannot be read, a value cannot be used, or the cluster has too few cores.
    """
    if not tasks:
        return
    threads = threads or 1
    with connected(address) as ray, shared(tasks[0].part.parent) as mark:
        count = min(_workers(room(ray, threads), threads, workers), len(tasks))
        tasks = [Task(replace(file, path=file.path.absolute()), part) for file, part in tasks]
        environment = {"env_vars": {"POLARS_MAX_THREADS": str(threads)}}
        again = {"max_restarts": -1, "max_task_retries": RETRIES}
        remote = ray.remote(num_cpus=threads, runtime_env=environment, **again)(Worker)
        order = ray.put(_order(writer, tasks, threads, mark))
        actors = [remote.remote() for _ in range(count)]
        stage(f"{count} workers score {len(tasks)} files")
        yield from _done(ray, actors, tasks, order)


def _order(writer: PartWriter, tasks: Sequence[Task], threads: int, mark: Path) -> Order:
    bundle = writer.scorer.bundle.path.absolute()
    _ = writer.files.types  # read here, and not by every worker
    return Order(
        bundle,
        (bundle / "SHA256SUMS").read_bytes(),
        writer.scorer.outputs,
        writer.files,
        {task.file.name: task.file.path.stat().st_size for task in tasks},
        writer.batch,
        threads,
        mark,
    )


def _workers(room: int, threads: int, workers: int | None) -> int:
    """How many there are to be.

    Raises:
        InputError: the cluster has not the cores.
    """
    if room < (workers or 1):
        raise InputError(
            "the Ray cluster has too few cores",
            found=f"room for {room} workers of threads={threads}",
            allowed=f"workers={workers or 1} at a time",
            fix="ask for fewer",
        )
    return workers or room


def _done(ray: Any, actors: Sequence[Any], tasks: Sequence[Task], order: Any) -> Iterator[Scored]:
    from ray.util import ActorPool

    pool = ActorPool(list(actors))
    for task in tasks:
        pool.submit(lambda actor, task: actor.score.remote(task, [order]), task)
    try:
        for _ in tasks:
            yield pool.get_next_unordered()
    except ray.exceptions.RayError as error:
        raise said(error) from error
