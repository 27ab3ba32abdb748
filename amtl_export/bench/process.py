"""What a server uses while it is asked: processors, and memory with shared pages counted by share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amtl_export.errors import EnvironmentLacks, InputError


def family(pid: int) -> list[Any]:
    """The process and all that it started, as psutil's.

    Raises:
        EnvironmentLacks: psutil is not installed.
        InputError: there is no such process.
    """
    try:
        import psutil
    except ImportError:
        raise EnvironmentLacks("psutil is not installed", fix="pip install 'amtl-export[serve]'") from None
    try:
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise InputError("there is no such process", found=f"pid={pid}") from None


def pss(pid: int) -> int:
    """Bytes of memory of the process and all that it started; a page that n processes share counts 1/n in each.

    Raises:
        EnvironmentLacks: psutil is not installed.
        InputError: there is no such process, or it is somebody else's.
    """
    processes = family(pid)
    import psutil

    try:
        return sum(process.memory_full_info().pss for process in processes)
    except psutil.AccessDenied as error:
        raise InputError(
            "the memory of a process of somebody else cannot be seen", found=f"pid={error.pid}", fix="run as its user"
        ) from None
    except psutil.NoSuchProcess as error:
        raise InputError("a process has ended", found=f"pid={error.pid}") from None


def mapped(pid: int, file: Path) -> int:
    """Bytes of a file that are in the memory of the process and all that it started, each page once.

    Raises:
        EnvironmentLacks: psutil is not installed.
        InputError: there is no such process.
    """
    maps = [own for process in family(pid) for own in process.memory_maps(grouped=False)]
    return sum(own.pss for own in maps if own.path == str(file))


@contextmanager
def watched(pid: int | None) -> Iterator[dict[str, float]]:
    """Filled in after the block: `processors` used, `pss_bytes`; empty where no pid is known.

    Raises:
        EnvironmentLacks: psutil is not installed.
        InputError: there is no such process.
    """
    used: dict[str, float] = {}
    if pid is None:
        yield used
        return
    before, start = _processor_seconds(pid), time.monotonic()
    yield used
    used["processors"] = (_processor_seconds(pid) - before) / (time.monotonic() - start)
    used["pss_bytes"] = float(pss(pid))


def _processor_seconds(pid: int) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in family(pid)))


@dataclass
class Samples:
    """Memory over time.

    Attributes:
        seconds: since the first sample.
        pss_bytes: then.
    """

    seconds: list[float] = field(default_factory=list)
    pss_bytes: list[int] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Bytes a minute, by least squares over the samples after the first fifth of the time."""
        if len(self.seconds) < 2:
            return 0.0
        seconds, memory = np.array(self.seconds), np.array(self.pss_bytes, dtype=np.float64)
        settled = seconds >= seconds[-1] / 5
        if settled.sum() < 2:
            settled[:] = True
        return float(np.polyfit(seconds[settled] / 60, memory[settled], 1)[0])


@contextmanager
def sampled(pid: int | None, every: float) -> Iterator[Samples]:
    """Memory, every so many seconds while the block runs; no samples where no pid is known.

    Raises:
        EnvironmentLacks: psutil is not installed.
        InputError: there is no such process.
    """
    samples, done = Samples(), threading.Event()
    start = time.monotonic()

    def sample() -> None:
        assert pid is not None
        samples.pss_bytes.append(pss(pid))
        samples.seconds.append(time.monotonic() - start)

    def work() -> None:
        while not done.wait(every):
            sample()

    if pid is None:
        yield samples
        return
    sample()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
    sample()
