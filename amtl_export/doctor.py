"""`doctor`: what is installed, what is missing, and what each missing part costs."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from amtl_export.errors import AmtlError, EnvironmentLacks
from amtl_export.extras import install, install_export, install_torchrec
from amtl_export.runtime.cores import usable_cores
from amtl_export.runtime.cuda import CPU, CUDA, check_device, load_libraries


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
        Check("cores", str(usable_cores())),
        _module("torch", "no bundle is made: train, compress, export and validate do not run", install_export()),
        _torch_threads(),
        _torch_cuda(),
        _module("onnx", "export, validate and package do not run", install_export()),
        _package("onnxscript", "export and validate do not run", install_export()),
        _package("onnx-ir", "export and validate do not run, nor package with raw features", install_export()),
        _package("safetensors", "runs and frozen folders cannot be read", install_export()),
        _module("polars", "train, score and inspect do not run", f"{install_export()}, or {install('data')}"),
        _module(
            "onnxruntime",
            "no bundle answers: load, export, validate, score and bench do not run",
            f"{install('cpu')}, or 'amtl-export[gpu]' on a CUDA machine",
        ),
        _one_runtime(),
        *_providers(),
        *_native(),
        _module("matplotlib", "no plots", install("plot")),
        _module("tritonclient", "package does not run", install("serve")),
        _module("yaml", "no kserve.yaml", install("serve")),
        _module("mlperf_loadgen", "bench server does not run", install("serve")),
        _module("psutil", "bench server sees no memory", install("serve")),
        _package("torchrec", "processes of torchrun hold all rows of large tables each", install_torchrec()),
        _package("ray", "no deployment in Ray Serve, no score or experiment on Ray", install("ray")),
    ]


def named_parts(text: str, known: Collection[str]) -> list[str]:
    """Names of parts, separated by commas; a name may have commas itself.

    Args:
        text: what was given.
        known: names of parts.
    """
    pieces, names = [piece.strip() for piece in text.split(",") if piece.strip()], []
    while pieces:
        several = (n for n in range(len(pieces), 0, -1) if ", ".join(pieces[:n]) in known)
        taken = next(several, 1)
        names.append(", ".join(pieces[:taken]))
        pieces = pieces[taken:]
    return names


def _module(name: str, cost: str, fix: str) -> Check:
    try:
        found = importlib.import_module(name)
    except ImportError:
        return Check(name, None, cost, fix)
    return Check(name, str(getattr(found, "__version__", "present")))


def _package(name: str, cost: str, fix: str) -> Check:
    """One that is not imported: it takes too long, or is called otherwise."""
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
    cost, fix = "training with device='cuda' is an error", "a CUDA build of torch and a GPU"
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
    cost, fix = "provider='cuda' is an error", "pip uninstall onnxruntime, then pip install 'amtl-export[gpu]'"
    there: str | None = None
    if CUDA in available:
        load_libraries(onnxruntime)
        try:
            check_device(onnxruntime)
            there = "available"
        except EnvironmentLacks as error:
            fix = error.fix or ""
    return [
        Check(CPU, "available" if CPU in available else None, "provider='cpu' is an error", fix),
        Check(CUDA, there, cost, fix),
    ]


def _native() -> list[Check]:
    from amtl_export.native import HOW_TO_BUILD, available_isas, isa_in_use, library_path

    costs = {
        "cpu": "bundles of layout ragged look rows up with standard operators, several times slower",
        "cuda": "bundles of layout ragged do not run on a GPU",
    }
    libraries = {provider: library_path(provider) for provider in HOW_TO_BUILD}
    checks = [
        Check(f"native operators, {provider}", str(path) if path else None, costs[provider], HOW_TO_BUILD[provider])
        for provider, path in libraries.items()
    ]
    if (library := libraries["cpu"]) is None:
        return [*checks, Check("instruction set", None, "see native operators, cpu", HOW_TO_BUILD["cpu"])]
    try:
        return [*checks, Check("instruction set", f"{isa_in_use(library)}, of {', '.join(available_isas(library))}")]
    except AmtlError as error:
        return [
            *checks,
            Check("instruction set", None, f"no bundle runs: {error.what}: {error.found}", error.fix or ""),
        ]
