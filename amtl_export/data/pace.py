"""How fast rows are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from amtl_export.data.rows import Chunk


class Pace(Protocol):
    """Is told how a pass over the rows goes, after each chunk, and once more at its end."""

    def __call__(self, stage: str, rows: int, seconds: float, done: bool) -> None:
        """So many rows are done since so many seconds; `stage` says what is done with them."""


def unwatched(stage: str, rows: int, seconds: float, done: bool) -> None:
    """Tell nobody."""


def paced(chunks: Iterable[Chunk], stage: str, pace: Pace) -> Iterator[Chunk]:
    """The same chunks; each counts as done when the next one is asked for."""
    started, rows = time.perf_counter(), 0
    for chunk in chunks:
        yield chunk
        rows += len(chunk.fields)
        pace(stage, rows, time.perf_counter() - started, False)
    pace(stage, rows, time.perf_counter() - started, True)
