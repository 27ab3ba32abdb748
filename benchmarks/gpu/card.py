"""The device that is measured: what it is, how fast it copies, what its kernels take."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from amtl_export.bench.subjects import check_torch
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.session import Provider

COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Card:
    """A GPU; or the CPU, to try the script where none is.

    Attributes:
        kind: cuda or cpu.
        copy_bytes: of the buffer whose copy says what the device can move.
    """

    kind: Provider
    copy_bytes: int = COPY_BYTES

    def __post_init__(self) -> None:
        check_torch(self.kind)

    def describe(self) -> dict[str, Any]:
        """Card, driver, memory, CUDA."""
        if self.kind == "cpu":
            return {"name": "cpu"}
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        name, driver, memory = (part.strip() for part in shown.splitlines()[0].split(","))
        return {"name": name, "driver": driver, "memory": memory, "cuda": torch.version.cuda}

    def options(self, *, graphs: bool = False) -> Cuda | None:
        """Of a session."""
        return Cuda(graphs=graphs) if self.kind == "cuda" else None

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], runs: int) -> float:
        """Of one of `runs` runs, asked for one after the other without waiting in between."""
        self.wait()
        began = time.perf_counter()
        for _ in range(runs):
            work()
        self.wait()
        return (time.perf_counter() - began) / runs

    def copied_bytes_per_second(self) -> float:
        """Read and written by a copy within the device's memory; the best of some."""
        source = torch.zeros(self.copy_bytes, dtype=torch.uint8, device=self.kind)
        target = torch.empty_like(source)
        target.copy_(source)
        return 2 * self.copy_bytes / min(self.seconds(lambda: target.copy_(source), 10) for _ in range(5))

    def kernels_us(self, work: Callable[[], object], runs: int = 50) -> float | None:
        """What the kernels of one run take together, as CUPTI counts; None on the CPU."""
        if self.kind == "cpu":
            return None
        work()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(runs):
                work()
            self.wait()
        kernels = [own for own in profile.key_averages() if not own.key.startswith(("Mem", "cuda"))]
        return float(sum(own.self_device_time_total for own in kernels)) / runs
