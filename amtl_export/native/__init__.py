"""The native operators: a small C library that ONNX Runtime loads, built with the package where a compiler is.

Without it every bundle still runs; `ai.amtl::RaggedGather` is then computed by its fallback, a function body of
standard operators. A second library is for sessions on CUDA, built where nvcc is.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

from amtl_export.errors import EnvironmentLacks

#: Of the operators' names.
DOMAIN = "ai.amtl"

#: Provider → how its library comes to be there.
HOW_TO_BUILD: dict[Literal["cpu", "cuda"], str] = {
    "cpu": "install a C compiler (gcc or clang), then install amtl-export again",
    "cuda": "install NVIDIA's compiler nvcc, then install amtl-export again with AMTL_EXPORT_CUDA=1",
}


def library_path(provider: Literal["cpu", "cuda"] = "cpu") -> Path | None:
    """The file of a provider's library, or None where the package was installed without its compiler."""
    here = Path(__file__).parent
    names = [f"amtl_ort{end}" for end in EXTENSION_SUFFIXES] if provider == "cpu" else ["amtl_ort_cuda.so"]
    return next((here / name for name in names if (here / name).is_file()), None)


def needed_library(provider: Literal["cpu", "cuda"] = "cpu") -> Path:
    """The file of a provider's library.

    Raises:
        EnvironmentLacks: it was not built.
    """
    library = library_path(provider)
    if library is None:
        raise EnvironmentLacks(
            f"the native operators for {provider} were asked for and are not built",
            where=Path(__file__).parent,
            fix=HOW_TO_BUILD[provider],
        )
    return library
