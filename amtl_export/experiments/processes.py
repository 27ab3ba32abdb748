"""Arms trained by processes of this machine, a fresh one each, so that its memory is free when it is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, NoReturn

from amtl_export.errors import AmtlError, EnvironmentLacks, os_errors
from amtl_export.experiments.arm import ArmResult, arm_result
from amtl_export.experiments.spread import Job, Note, Trainer, Work, of_job
from amtl_export.runtime.cores import usable_cores
from amtl_export.training.observer import Silent

#: Seconds that a process has to leave its folder in order.
_PATIENCE = 60


@contextmanager
def processes(jobs: int, threads: int | None, note: Note) -> Iterator[Trainer]:
    """Processes that end with the block.

    Args:
        jobs: how many at a time.
        threads: PyTorch's, of all together; None takes one a core.
        note: is told of epochs.
    """
    running = _Processes(jobs, max(1, (threads or usable_cores()) // jobs), note)
    try:
        yield running
    finally:
        running.stop()


class _Processes:
    """See `spread.Trainer`."""

    def __init__(self, jobs: int, threads: int, note: Note) -> None:
        self._jobs, self.threads, self._note = jobs, threads, note
        self._running: dict[Connection, tuple[Job, SpawnProcess]] = {}

    def room(self) -> int:
        """How many more may begin."""
        return self._jobs - len(self._running)

    def begin(self, work: Work) -> None:
        """Start a process."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(sender, work), name=str(work.job))
        self._running[receiver] = work.job, process
        with sender:
            process.start()

    def finished(self) -> tuple[Job, ArmResult]:
        """Wait for a result, and pass on notes meanwhile."""
        while True:
            for receiver in wait(list(self._running)):
                assert isinstance(receiver, Connection)
                said = _received(receiver)
                if isinstance(said, str):
                    self._note(said)
                    continue
                job, process = self._running.pop(receiver)
                process.join()
                receiver.close()
                return job, _result(job, said, process.exitcode)

    def stop(self) -> None:
        """End those that are under way."""
        begun = [process for _, process in self._running.values() if process.pid is not None]
        for process in begun:
            process.terminate()
        for process in begun:
            process.join(_PATIENCE)
            process.kill()
            process.join()
        self._running.clear()


def _received(receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return None


def _result(job: Job, said: object, code: int | None) -> ArmResult:
    if isinstance(said, ArmResult):
        return said
    if isinstance(said, AmtlError):
        raise of_job(job, said)
    if isinstance(said, _Bug):
        raise RuntimeError(f"arm {job} failed:\n{said.text}")
    raise of_job(
        job,
        EnvironmentLacks(
            "the process that trained it ended without a result",
            found=f"signal {-code}" if code is not None and code < 0 else f"exit code {code}",
            fix="is memory short? Then fewer jobs; the same call goes on with what is finished",
        ),
    )


class _Bug:
    """An error that nobody expects, as text: it may not be picklable."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Notes(Silent):
    """Tells of epochs."""

    def __init__(self, job: Job, sender: Connection) -> None:
        self._job, self._sender = job, sender

    def epoch_finished(self, record: dict[str, Any]) -> None:
        """An epoch is done."""
        self._sender.send(f"{self._job}: epoch {record['epoch']}, valid AUC {record['auc_valid']:.4f}")


def _main(sender: Connection, work: Work) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's whole group: the first process says what ends
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        sender.send(_trained(sender, work))


def _trained(sender: Connection, work: Work) -> object:
    import torch

    torch.set_num_threads(work.threads)
    try:
        with os_errors("working on an experiment", work.out):
            return arm_result(work.job.arm, work.job.seed, work.out / "runs", work.plan, _Notes(work.job, sender))
    except AmtlError as error:
        return error
    except Exception:
        return _Bug(traceback.format_exc())


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A process whose parent was killed ends as one that is told to."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
