"""Which machine a figure was taken on."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from amtl_export.runtime.cores import usable_cores

_PACKAGES = ("amtl-export", "torch", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, and versions of what computes; no host name."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def today() -> str:
    """The date, ISO."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
