"""The extras of the package: which modules each brings, and what a user does who lacks one.

The base install answers requests. What makes bundles, or reads files of rows, comes by an extra.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from amtl_export.errors import EnvironmentLacks

#: The versions of torch that are tested, as pyproject.toml has them.
TORCH = "torch>=2.13,<2.15"

#: It comes without its dependencies, which the extra `distributed` has.
TORCHREC = "torchrec==1.8.0"

#: Where torch comes without CUDA's libraries, which are gigabytes.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

#: Module → what brings it.
EXTRA_OF = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "safetensors": "export",
    "polars": "export",
    "onnxruntime": "cpu",
    "matplotlib": "plot",
    "tritonclient": "serve",
    "google": "serve",  # google.protobuf, of tritonclient
    "yaml": "serve",
    "mlperf_loadgen": "serve",
    "psutil": "serve",
    "ray": "ray",
}

#: Module of `export` → a smaller extra that brings it too, and the commands that need no more.
_LESS = {
    "polars": ("data", "score, inspect, compare and data describe"),
    "onnx": ("serve", "package"),
    "onnx_ir": ("serve", "package"),
}


def install(extra: str) -> str:
    """The command that brings an extra; `export` with the ONNX Runtime that is here, or the CPU's."""
    return f"pip install 'amtl-export[{f'export,{_runtime()}' if extra == 'export' else extra}]'"


def install_export() -> str:
    """The command that brings the extra `export`; where no GPU is, torch comes first, without CUDA's libraries."""
    if not _installed("torch") and sys.platform == "linux" and not Path("/dev/nvidiactl").exists():
        return f"pip install '{TORCH}' --index-url {CPU_INDEX} && {install('export')}"
    return install("export")


def install_torchrec() -> str:
    """The command that brings TorchRec, without the CUDA build of FBGEMM that it asks for."""
    return f"{install('distributed')} && pip install --no-deps {TORCHREC}"


def lacking(error: ModuleNotFoundError) -> EnvironmentLacks | None:
    """What an import that failed for want of an extra means for the user; None for a module that no extra brings."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF:
        return None
    extra = EXTRA_OF[module]
    fix = install_export() if extra == "export" else install(extra)
    if module in _LESS:
        less, commands = _LESS[module]
        fix += f"; {install(less)} is enough for {commands}"
    return EnvironmentLacks(f"{module} is not installed: it comes with the extra {extra}", fix=fix)


def _runtime() -> str:
    """The extra of the ONNX Runtime that is installed: `gpu`, else `cpu`."""
    return "gpu" if _installed("onnxruntime-gpu") else "cpu"


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
