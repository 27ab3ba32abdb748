"""`torch.export` of a model for sizes that may change, and what it found out about them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

from amtl_export.errors import InputError
from amtl_export.graph.user_lines import lines_of
from amtl_export.spec import BATCH, TensorSpec

#: How often what `torch.export` suggests is tried: a fix may bring up the next one.
_FIXES = 4

#: Sizes beyond this are no limit.
_LARGE = 1 << 30

#: How `torch.export` says what became of a dimension: a number, or one that not every size is.
_FIXED = re.compile(r"You marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_ASKED = re.compile(r"Not all values of (\w+) = (\S+) in the specified range .*?satisfy the generated guard (.+)")


@dataclass(frozen=True)
class Exported:
    """A model as `torch.export` sees it.

    Attributes:
        program: the exported program.
        limits: dimension → its largest size, where the model has one.
    """

    program: torch.export.ExportedProgram
    limits: dict[str, int]


def exported(module: nn.Module, tensors: tuple[Tensor, ...], inputs: Sequence[TensorSpec], where: str) -> Exported:
    """Export for batches of any size, or where the model forbids that for 2 and more.

    A guard on a size is never put off to run time: the graph would not have it. A range that the model itself has (a
    table of 20 positions) is taken over, and is a limit.

    Args:
        module: in evaluation mode.
        tensors: an example of its inputs.
        inputs: what they are.
        where: for errors.

    Raises:
        InputError: the model cannot be exported, or only for sizes that are fixed.
    """
    reasons: list[BaseException] = []
    for strict in (False, True):  # tracing bytecode keeps sizes that Python turns into numbers, such as len(x)
        for least in (0, 2):
            try:
                program = _refined(module, tensors, _dimensions(inputs, least), strict=strict)
            except Exception as error:  # the exporter's own classes have no common base
                reasons.append(error)
                continue
            return Exported(program, _limits(program, inputs))
    raise InputError(
        "the model cannot be exported",
        where=where + _lines(reasons),
        found=_first_line(reasons[0]),
        fix="use operations that torch.export traces for every size: no loops over the batch, no .item(), no branch on "
        "a size; dynamic_shapes names the dimensions that may change",
    ) from reasons[0]


def _refined(
    module: nn.Module, tensors: tuple[Tensor, ...], shapes: tuple[dict[int, Any], ...], *, strict: bool
) -> torch.export.ExportedProgram:
    """The program, with ranges of sizes taken over from the model."""
    given: Any = (shapes,)
    for _ in range(_FIXES):
        try:
            return torch.export.export(module, tensors, dynamic_shapes=given, strict=strict)
        except UserError as error:
            if "Suggested fixes:" not in str(error):
                raise
            given = refine_dynamic_shapes_from_suggested_fixes(_suggestions(str(error)), given)
            if _fixed(given, shapes):
                raise
    return torch.export.export(module, tensors, dynamic_shapes=given, strict=strict)


def _suggestions(message: str) -> str:
    """The suggested fixes of an error, without what is said behind them."""
    _, _, fixes = message.partition("Suggested fixes:")
    return f"Suggested fixes:\n{fixes.strip().partition(chr(10) * 2)[0]}"


def _fixed(given: Any, shapes: tuple[dict[int, Any], ...]) -> bool:
    """Whether a dimension that may change became a number."""
    pairs = zip(given[0], shapes, strict=True)
    return any(isinstance(own.get(axis), (int, type(None))) for own, first in pairs for axis in first)


def _dimensions(inputs: Sequence[TensorSpec], least: int) -> tuple[dict[int, Any], ...]:
    """Axis → dimension of every input; equal names are one dimension."""
    dims: dict[str, Any] = {}
    for spec in inputs:
        for size in spec.shape:
            if isinstance(size, str) and size not in dims:
                dims[size] = torch.export.Dim(re.sub(r"\W", "_", size), min=least if size == BATCH else 0)
    return tuple({a: dims[s] for a, s in enumerate(spec.shape) if isinstance(s, str)} for spec in inputs)


def _limits(program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Dimension → its largest size, from the ranges of the program's symbols."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    limits: dict[str, int] = {}
    for spec, name in zip(inputs, program.graph_signature.user_inputs, strict=True):
        shape: Any = placeholders[str(name)].meta["val"].shape
        for wanted, size in zip(spec.shape, shape, strict=True):
            upper = _upper(program.range_constraints, size)
            if isinstance(wanted, str) and upper is not None:
                limits[wanted] = upper
    return limits


def _upper(ranges: Mapping[Any, Any], size: Any) -> int | None:
    """The largest value of a symbolic size, where it has one."""
    if not isinstance(size, torch.SymInt) or size.node.expr not in ranges:
        return None
    upper = str(ranges[size.node.expr].upper)
    return int(upper) if upper.isdigit() and int(upper) < _LARGE else None


def _lines(reasons: Sequence[BaseException]) -> str:
    """Which lines the first reason is about, as far as it or another way of tracing that fails alike knows."""
    alike = (reason for reason in reasons if _first_line(reason) == _first_line(reasons[0]))
    return next((lines for reason in alike if (lines := lines_of(reason))), "")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if fixed := _FIXED.search(str(error)):
        return f"forward fixes the dimension {fixed[1]} at {fixed[2]}, the example's size"
    if asked := _ASKED.search(str(error)):
        return f"not every {asked[1]} fits: forward needs {asked[3].rstrip('.').replace(asked[2], asked[1])}"
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Constraints violated") and len(lines) > 1 else lines[0]
