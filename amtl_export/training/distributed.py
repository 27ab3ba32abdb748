"""One training in several processes, which torchrun starts: who they are, and what they tell each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from amtl_export.errors import AmtlError, EnvironmentLacks, InputError
from amtl_export.training.config import TrainConfig

#: The other processes wait while the first one encodes. One that has died is noticed at once, by its connections.
PATIENCE = timedelta(days=7)

#: Methods whose rows depend on the whole batch: AutoEmb normalises over it.
_WHOLE_BATCH = frozenset({"autoemb"})


@dataclass(frozen=True)
class Ranks:
    """The processes of one training. A process alone is the first of one, and nothing here costs it anything.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch's default process group; one alone where there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process encodes, writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is one process."""
        return self.size == 1

    def part(self, count: int) -> slice:
        """This process's neighbouring rows of `count`; all parts together are all rows, and one may be empty."""
        return slice(*self.edges(count)[self.rank : self.rank + 2])

    def edges(self, count: int) -> list[int]:
        """First row of each process's part of `count`, and `count`."""
        return [count * rank // self.size for rank in range(self.size + 1)]

    def wait(self) -> None:
        """Until all processes are here."""
        if not self.alone:
            dist.barrier()

    def told(self, number: int) -> int:
        """The first process's number; the others' arguments are ignored."""
        if self.alone:
            return number
        box = torch.tensor(number)
        dist.broadcast(box, src=0)
        return int(box)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up the processes' tensors of one shape, dense or sparse, in place."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor


#: A process alone.
ALONE = Ranks()


def check_shared(config: TrainConfig, ranks: Ranks) -> None:
    """Refuse what several processes would train otherwise than one.

    Raises:
        InputError: the method is one of these.
    """
    if not ranks.alone and config.method in _WHOLE_BATCH:
        raise InputError(
            f"train: method {config.method} trains in one process: its rows depend on the whole batch",
            found=f"{ranks.size} processes",
            fix="start it without torchrun, or choose another method",
        )


def check_seen(folder: Path, ranks: Ranks) -> None:
    """Make sure that all processes see the folder that the first one has made.

    Raises:
        InputError: one does not; raised in all.
    """
    seen = int(ranks.sum_(torch.tensor(int(folder.is_dir()))))
    if seen < ranks.size:
        raise InputError(
            "the processes of a training do not see the same folder",
            where=folder,
            found=f"{seen} of {ranks.size} see it",
            fix="give all of them one output folder, on a file system that they share",
        )


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside the block, the processes that torchrun started are one process group; a process alone is left alone.

    Of what goes wrong, in one process or in several, one says what it is. The others end with its exit code.

    Raises:
        InputError: the environment names a group and not how to join it.
    """
    if _int_of("WORLD_SIZE", 1) == 1:
        yield Ranks()
        return
    store = _join()
    try:
        yield Ranks.here()
    except BaseException as error:
        _one_speaks(store, error)
        raise
    finally:
        dist.destroy_process_group()


def _int_of(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or not int(text):
        raise InputError("an environment variable of torchrun cannot be read", where=name, found=text)
    return int(text)


def _join() -> Any:
    try:
        store, rank, size = next(iter(rendezvous("env://")))
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(
            "the processes of a training cannot find each other",
            where="WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT of the environment",
            found=error,
            fix="start them with torchrun, or unset WORLD_SIZE",
        ) from None
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # of TorchRec's own calls
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return store


def _one_speaks(store: Any, error: BaseException) -> None:
    """Return in the first process in which something went wrong; the others end here, with its exit code."""
    key = f"amtl_export/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    code = error.exit_code if isinstance(error, AmtlError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    try:
        if store.add(f"{key}/failed", 1) == 1:
            store.set(f"{key}/exit", str(code))
            return
        code = int(store.get(f"{key}/exit"))
    except RuntimeError:  # torchrun itself has ended
        return
    raise SystemExit(code) from error


@contextmanager
def lost_processes(ranks: Ranks) -> Iterator[None]:
    """Say of a broken connection what it means.

    Raises:
        EnvironmentLacks: another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        if ranks.alone or ("gloo" not in str(error) and "Connection" not in str(error)):
            raise
        raise EnvironmentLacks(
            "another process of the training has ended",
            found=str(error).splitlines()[0],
            fix="look at what it says; the same command goes on from the last finished epoch",
        ) from error
