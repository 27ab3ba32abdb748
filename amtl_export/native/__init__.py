"""The native operator: a small C library that ONNX Runtime loads, built with the package where a compiler is.

Without it every bundle still runs; `ai.amtl::RaggedGather` is then computed by its body of standard operators.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from amtl_export.errors import EnvironmentLacks


def library_path() -> Path | None:
    """The library's file, or None where the package was installed without a compiler."""
    here = Path(__file__).parent
    return next((here / f"amtl_ort{end}" for end in EXTENSION_SUFFIXES if (here / f"amtl_ort{end}").is_file()), None)


def needed_library() -> Path:
    """The library's file.

    Raises:
        EnvironmentLacks: it was not built.
    """
    found = library_path()
    if found is None:
        raise EnvironmentLacks(
            "the native operator was asked for and is not built",
            where=Path(__file__).parent,
            fix="install a C compiler (gcc or clang), then install amtl-export again",
        )
    return found
