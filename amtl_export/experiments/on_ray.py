"""Arms trained on Ray, as many at a time as the cluster has cores for; the output folder is on a shared file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from amtl_export.cluster import RETRIES, check_shared, connected, not_shared, room, said, shared
from amtl_export.errors import AmtlError, InputError, os_errors
from amtl_export.experiments.arm import ArmResult, arm_result
from amtl_export.experiments.spread import Job, Trainer, Work, of_job


@contextmanager
def on_ray(address: str, threads: int | None, out: Path) -> Iterator[Trainer]:
    """Tasks of a cluster that end with the block.

    Args:
        address: as `ray.init` takes it, or `local`.
        threads: PyTorch's, and cores, of an arm; None is one.
        out: the experiment's folder.

    Raises:
        EnvironmentLacks: Ray is missing or cannot be reached.
        InputError: the cluster has too few cores.
    """
    threads = threads or 1
    with connected(address) as ray, shared(out) as mark:
        if not room(ray, threads):
            raise InputError(
                "no machine of the Ray cluster has the cores of one arm", allowed=f"threads={threads} or more"
            )
        tasks = _Tasks(ray, threads, mark)
        try:
            yield tasks
        finally:
            tasks.stop()


class _Tasks:
    """See `spread.Trainer`."""

    def __init__(self, ray: Any, threads: int, mark: Path) -> None:
        self._ray, self.threads, self._mark = ray, threads, mark
        self._running: dict[Any, Job] = {}
        # A process an arm, as elsewhere; a training that is given out again goes on with its last epoch.
        self._remote = ray.remote(num_cpus=threads, max_retries=RETRIES, max_calls=1)(_trained)

    def room(self) -> int:
        """Ray holds back what it has no cores for."""
        return 1 << 30

    def begin(self, work: Work) -> None:
        """Hand it to Ray."""
        self._running[self._remote.remote(work, self._mark, Path.cwd())] = work.job

    def finished(self) -> tuple[Job, ArmResult]:
        """Wait for a result."""
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        job = self._running.pop(reference)
        try:
            return job, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            meant = said(error)
            raise of_job(job, meant) if isinstance(meant, AmtlError) else meant from error

    def stop(self) -> None:
        """End those that are under way, as an interruption does, and wait until their folders are in order."""
        for reference in self._running:
            self._ray.cancel(reference)
        if self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=60)


def _trained(work: Work, mark: Path, here: Path) -> ArmResult:
    import torch

    check_shared(mark)
    if not here.is_dir():
        raise not_shared("the folder that relative paths are of", here)
    os.chdir(here)
    torch.set_num_threads(work.threads)
    with os_errors("working on an experiment", work.out):
        return arm_result(work.job.arm, work.job.seed, work.out / "runs", work.plan)
