"""Arms side by side: which may begin, where they are trained, and how all end when one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amtl_export.errors import AmtlError, InputError
from amtl_export.experiments.arm import ArmResult
from amtl_export.experiments.plan import Arm, Plan
from amtl_export.stages import stage

Note = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """Where arms are trained. Results do not depend on it, but on `threads` as sums of floats in PyTorch do.

    Attributes:
        jobs: processes of this machine that train at a time; 1 trains in this process.
        ray: address of a Ray cluster that trains, as `ray.init` takes it; `local` starts one here. None is none.
        threads: PyTorch's, of all processes of `jobs` together, which share them; on Ray, of each arm. None takes one a
            core, on Ray one.

    Raises:
        InputError: both `jobs` and `ray` are given.
    """

    jobs: int = 1
    ray: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.jobs > 1 and self.ray is not None:
            raise InputError(
                "arms are trained by processes here or on Ray",
                found=f"jobs={self.jobs} and ray={self.ray!r}",
                fix="give one of the two; Ray trains as many at a time as it has cores for",
            )

    @property
    def apart(self) -> bool:
        """Whether other processes train."""
        return self.jobs > 1 or self.ray is not None


@dataclass(frozen=True, eq=False)
class Job:
    """An arm with a seed."""

    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"


@dataclass(frozen=True)
class Work:
    """What a process that trains an arm is told, picklable.

    Attributes:
        job: the arm.
        out: the experiment's folder, absolute.
        plan: that it is of.
        threads: PyTorch's.
    """

    job: Job
    out: Path
    plan: Plan
    threads: int


class Trainer(Protocol):
    """Trains arms somewhere else."""

    threads: int

    def room(self) -> int:
        """How many more may begin."""

    def begin(self, work: Work) -> None:
        """Begin one."""

    def finished(self) -> tuple[Job, ArmResult]:
        """Wait for any that has begun.

        Raises:
            AmtlError: it failed; says which.
        """


def side_by_side(
    jobs: Sequence[Job], out: Path, plan: Plan, spread: Spread, note: Note
) -> Iterator[tuple[Job, ArmResult]]:
    """Train arms as they may begin: one that starts from another's run waits for it.

    When one fails, or the caller ends, those that are under way are ended, and keep their last epoch for the next call.

    Args:
        jobs: arms; one that others start from comes before them.
        out: the experiment's folder, absolute.
        plan: that they are of.
        spread: where.
        note: is told what begins, and of epochs where the trainer says them.

    Raises:
        AmtlError: one failed; says which.
    """
    waiting, done, begun = list(jobs), set[tuple[str, int]](), 0
    with _trainer(spread, out, note) as trainer:
        while waiting or begun:
            ready = [job for job in waiting if job.arm.warm_from is None or (job.arm.warm_from, job.seed) in done]
            for job in ready[: trainer.room()]:
                trainer.begin(Work(job, out, plan, trainer.threads))
                waiting.remove(job)
                begun += 1
                note(f"{job}: begun")
            stage(f"{begun} under way, {len(waiting)} to begin")
            job, result = trainer.finished()
            begun -= 1
            done.add((job.arm.name, job.seed))
            yield job, result


def _trainer(spread: Spread, out: Path, note: Note) -> AbstractContextManager[Trainer]:
    from amtl_export.experiments.on_ray import on_ray
    from amtl_export.experiments.processes import processes

    if spread.ray is not None:
        return on_ray(spread.ray, spread.threads, out)
    return processes(spread.jobs, spread.threads, note)


def of_job(job: Job, error: AmtlError) -> AmtlError:
    """The error, which says of which arm it is."""
    named = {"where": error.where, "found": error.found, "allowed": error.allowed, "fix": error.fix}
    return type(error)(f"arm {job}: {error.what}", **named)  # type: ignore[arg-type]  # as it has them


@contextmanager
def naming(job: Job) -> Iterator[None]:
    """Errors inside the block say which arm they are of."""
    try:
        yield
    except AmtlError as error:
        raise of_job(job, error) from error
