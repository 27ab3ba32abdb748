"""Which lines of a user's model an exporter's error is about."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch

import amtl_export
from amtl_export.files import real

Frame = tuple[str, int]  # file and line

#: A frame as Python writes it.
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')

#: How the exporter names what it has no ONNX for.
_NODE = re.compile(r"translating node %(\w+)")

#: What calls and is called by a model, but is none.
_PACKAGES = tuple(
    real(str(file)).parent
    for file in (torch.__file__, np.__file__, onnx.__file__, onnxscript.__file__, amtl_export.__file__)
)


def lines_of(error: BaseException, program: torch.export.ExportedProgram | None = None) -> str:
    """The lines for people, ` (my_model.py, line 12)`; nothing where the error does not lead to one.

    Args:
        error: of `torch.export` or `torch.onnx.export`.
        program: of a conversion: its nodes know their lines.
    """
    for raised in _chain(error):
        called = [(frame.filename, int(frame.lineno or 0)) for frame in traceback.extract_tb(raised.__traceback__)]
        stacks = [_frames(text) for text in str(raised).split("User stack:")]
        if found := _written([called]) or _written(stacks):
            return found
        if program is not None and (node := _NODE.search(str(raised))):
            own = [str(one.meta.get("stack_trace") or "") for one in program.graph.nodes if one.name == node[1]]
            return _written([_frames(text) for text in own])
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def _frames(text: str) -> list[Frame]:
    return [(file, int(line)) for file, line in _FRAME.findall(text)]


def _written(stacks: list[list[Frame]]) -> str:
    """The innermost frame of each stack that is the user's, for people; empty if none is."""
    users = [[frame for frame in frames if _is_users(frame[0])] for frames in stacks]
    lines = sorted({(Path(frames[-1][0]).name, frames[-1][1]) for frames in users if frames})
    return f" ({'; '.join(f'{file}, line {line}' for file, line in lines)})" if lines else ""


@cache
def _is_users(file: str) -> bool:
    """Whether a file is no part of Python, PyTorch, the exporter or this package."""
    if file.startswith("<"):
        return False
    path, library = real(file), real(sysconfig.get_paths()["stdlib"])
    standard = path.is_relative_to(library) and not {"site-packages", "dist-packages"} & set(path.parts)
    return not standard and not any(own.is_relative_to(package) for own in (path, Path(file)) for package in _PACKAGES)
