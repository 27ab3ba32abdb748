"""Labelled batches that must be the same each time that they are gone through: scores are compared one by one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.source.source import Labelled, Labels
from amtl_export.spec import Feed


def same_each_time(labelled: Labelled) -> Labelled:
    """The same batches, held against those that came when they were gone through before.

    What gives them raises an InputError where they are others, in another order, or fewer.
    """
    seen: dict[str, list[int]] = {}
    return lambda split: _held(labelled(split), seen.setdefault(split, []))


def _held(batches: Iterator[tuple[Feed, Labels]], seen: list[int]) -> Iterator[tuple[Feed, Labels]]:
    """The batches; a checksum of each that is new is appended to those that were seen."""
    number = -1
    for number, (feed, labels) in enumerate(batches):
        own = _checksum({**feed, **{f"label {name}": known for name, known in labels.items()}})
        if number == len(seen):
            seen.append(own)
        elif seen[number] != own:
            raise _others(f"batch {number}", "other examples, or another order")
        yield feed, labels
    if number + 1 < len(seen):
        raise _others("batches", f"{number + 1}, and {len(seen)} before")


def _others(where: str, found: str) -> InputError:
    return InputError(
        "the batches are not the same when they are gone through again",
        where=where,
        found=found,
        fix="a DataLoader needs shuffle=False, and what draws examples a seed each time; or give list(batches)",
    )


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    value = 0
    for name, array in arrays.items():
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return value
