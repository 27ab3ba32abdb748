"""The native operators: a small C library that ONNX Runtime loads, built with the package where a compiler is.

Without it every bundle still runs; `ai.amtl::RaggedGather` is then computed by its fallback, a function body of
standard operators. A second library is for sessions on CUDA, built where nvcc is.

The CPU's library has kernels for several instruction sets. A process uses those of one, chosen once: the widest that
the processor has, or the one that `AMTL_FORCE_ISA` names.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Literal

from amtl_export.errors import EnvironmentLacks, InputError

_HERE = Path(__file__).parent

#: Of the operators' names.
DOMAIN = "ai.amtl"

#: Floats of a row at most (AMTL_MOST_DIM of native/sizes.h).
MOST_DIM = 32_768

#: Provider → the file of its library. ONNX Runtime loads it, so it has no suffix of a Python.
LIBRARIES: dict[Literal["cpu", "cuda"], str] = {"cpu": "amtl_ort.so", "cuda": "amtl_ort_cuda.so"}

#: Environment variable that names an instruction set.
FORCE_ISA = "AMTL_FORCE_ISA"

#: Provider → how its library comes to be there.
HOW_TO_BUILD: dict[Literal["cpu", "cuda"], str] = {
    "cpu": "install a C compiler (gcc or clang), then install amtl-export again",
    "cuda": "install NVIDIA's compiler nvcc, then install amtl-export again with AMTL_EXPORT_CUDA=1",
}


def library_path(provider: Literal["cpu", "cuda"] = "cpu") -> Path | None:
    """The file of a provider's library, or None where the package was installed without its compiler.

    It lies beside this file. Python that runs in a checkout imports that, where nothing is built, and not what is
    installed: then it is the installed one, if that was built of the same sources.
    """
    library = _HERE / LIBRARIES[provider]
    return library if library.is_file() else _installed(LIBRARIES[provider])


def _installed(name: str) -> Path | None:
    from importlib.metadata import PackageNotFoundError, distribution

    if not (sources := _sources(_HERE)):
        return None
    try:
        library = Path(str(distribution("amtl-export").locate_file(f"amtl_export/native/{name}")))
    except PackageNotFoundError:
        return None
    return library if library.is_file() and _sources(library.parent) == sources else None


def _sources(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".c", ".h", ".cu")}


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


def available_isas(library: Path) -> list[str]:
    """Names of the instruction sets that the CPU's library has kernels for and this processor can run, widest last.

    Raises:
        EnvironmentLacks: the library cannot be used here.
    """
    loaded, names, number = _loaded(library), [], 0
    while (name := loaded.amtl_known_isa(number)) is not None:
        names += [name.decode()] if loaded.amtl_has_isa(number) else []
        number += 1
    return names


def isa_in_use(library: Path) -> str:
    """The instruction set whose kernels this process uses: `scalar`, `avx2`, `avx512` or `vnni`.

    Raises:
        InputError: `AMTL_FORCE_ISA` names none that there is.
        EnvironmentLacks: this processor does not have it, or the library cannot be used here.
    """
    name: bytes | None = _loaded(library).amtl_isa_name()
    if name is not None:
        return name.decode()
    forced, available = os.environ.get(FORCE_ISA), ", ".join(available_isas(library))
    if forced in ("avx2", "avx512", "vnni"):
        raise EnvironmentLacks(
            f"{FORCE_ISA} names an instruction set that this processor does not have",
            found=forced,
            allowed=available,
            fix=f"unset {FORCE_ISA}",
        )
    raise InputError(f"{FORCE_ISA} names no instruction set", found=forced, allowed=available, fix=f"unset {FORCE_ISA}")


def _loaded(library: Path) -> ctypes.CDLL:
    """The library as ONNX Runtime loads it: a process has it once."""
    try:
        loaded = ctypes.CDLL(str(library))
        loaded.amtl_isa_name.restype = loaded.amtl_known_isa.restype = ctypes.c_char_p
        loaded.amtl_known_isa.argtypes = loaded.amtl_has_isa.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError) as error:  # for another machine, or of another version
        raise EnvironmentLacks(
            "the native library cannot be used", where=library, found=error, fix=HOW_TO_BUILD["cpu"]
        ) from error
    return loaded
