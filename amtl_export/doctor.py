"""`doctor`: what is installed, what is missing, and what each missing part costs."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True)
class Check:
    """One part of the environment.

    Attributes:
        part: what was looked for.
        found: what is there, or None.
        cost: what does not work without it.
        fix: how to get it.
    """

    part: str
    found: str | None
    cost: str = ""
    fix: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is there."""
        return self.found is not None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "ok": self.ok}


def examine() -> list[Check]:
    """Look at everything; imports torch and ONNX Runtime to see whether they really load."""
    return [
        Check("python", platform.python_version()),
        Check("cores", str(len(os.sched_getaffinity(0)))),
        _module("torch", "train, freeze and export do not run", "pip install torch==2.13.0"),
        _torch_threads(),
        _torch_cuda(),
        _module("onnx", "export and validate do not run", "pip install amtl-export"),
        _module(
            "onnxruntime",
            "export, validate and bench do not run",
            "pip install 'amtl-export[cpu]' or '[gpu]'",
        ),
        _one_runtime(),
        *_providers(),
        _native(),
        _library("cudart", "CUDA runtime", "the CUDA provider does not load"),
        _library("cudnn", "cuDNN", "the CUDA provider does not load"),
        _module("matplotlib", "no --plot", "pip install 'amtl-export[plot]'"),
        _module("tritonclient", "package does not run", "pip install 'amtl-export[serve]'"),
        _module("yaml", "no kserve.yaml", "pip install 'amtl-export[serve]'"),
        _module("mlperf_loadgen", "bench server does not run", "pip install 'amtl-export[serve]'"),
        _module("psutil", "bench server sees no memory", "pip install 'amtl-export[serve]'"),
        _package("ray", "no deployment in Ray Serve", "pip install 'amtl-export[ray]'"),
    ]


def _module(name: str, cost: str, fix: str) -> Check:
    try:
        found = importlib.import_module(name)
    except ImportError:
        return Check(name, None, cost, fix)
    return Check(name, str(getattr(found, "__version__", "present")))


def _package(name: str, cost: str, fix: str) -> Check:
    """One that takes too long to import."""
    try:
        return Check(name, version(name))
    except PackageNotFoundError:
        return Check(name, None, cost, fix)


def _torch_threads() -> Check:
    try:
        import torch
    except ImportError:
        return Check("torch threads", None, "see torch")
    return Check("torch threads", str(torch.get_num_threads()))


def _torch_cuda() -> Check:
    cost, fix = "training runs on the CPU", "a CUDA build of torch and a GPU"
    try:
        import torch
    except ImportError:
        return Check("torch CUDA", None, cost, fix)
    return Check("torch CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else None, cost, fix)


def _one_runtime() -> Check:
    """onnxruntime and onnxruntime-gpu overwrite each other's files."""
    there = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(there) > 1:
        return Check(
            "one ONNX Runtime",
            None,
            f"{' and '.join(there)} overwrite each other",
            "uninstall both, install one extra",
        )
    return Check("one ONNX Runtime", there[0] if there else None, "see onnxruntime", "install one of the extras")


def _providers() -> list[Check]:
    try:
        import onnxruntime
    except ImportError:
        return []
    available = onnxruntime.get_available_providers()
    wanted = {"CPUExecutionProvider": "--provider cpu", "CUDAExecutionProvider": "--provider cuda"}
    fix = "pip uninstall onnxruntime, then pip install 'amtl-export[gpu]'"
    return [
        Check(name, "available" if name in available else None, f"{flag} is an error", fix)
        for name, flag in wanted.items()
    ]


def _native() -> Check:
    from amtl_export.native import library_path

    found = library_path()
    cost = "bundles of layout ragged look rows up with standard operators, several times slower"
    return Check("native operator", str(found) if found else None, cost, "a C compiler, then install again")


def _library(name: str, part: str, cost: str) -> Check:
    return Check(part, ctypes.util.find_library(name), cost, "install CUDA 13 and cuDNN 9")
