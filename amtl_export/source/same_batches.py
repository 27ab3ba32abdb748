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

    What gives them raises an InputError where they are others, in another order, or another number.
    """
    seen: dict[str, list[int]] = {}

    def held(split: str) -> Iterator[tuple[Feed, Labels]]:
        own: list[int] = []
        before = seen.get(split)
        for feed, labels in labelled(split):
            own.append(_checksum({**feed, **{f"label {name}": known for name, known in labels.items()}}))
            if before is not None and own[-1:] != before[len(own) - 1 : len(own)]:
                raise _others(f"batch {len(own) - 1}", "other examples, another order, or one more")
            yield feed, labels
        if before is not None and len(own) < len(before):
            raise _others("batches", f"{len(own)}, and {len(before)} before")
        seen[split] = own

    return held


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
