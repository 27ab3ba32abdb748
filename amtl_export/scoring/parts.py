"""The scores of one file: a folder of Parquet files, one a chunk, there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from amtl_export.data.folder import DataFile
from amtl_export.data.source import Files
from amtl_export.runtime.cores import usable_cores
from amtl_export.scoring.scorer import Scorer
from amtl_export.stages import stage


class Task(NamedTuple):
    """A file, and the folder that its scores go to."""

    file: DataFile
    part: Path


class Scored(NamedTuple):
    """A file that is done, its rows, and the seconds that they took."""

    name: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class PartWriter:
    """What scores a file.

    Attributes:
        scorer: reader and graph.
        files: of the data, with what is joined to them.
        kept: columns that are written beside the scores.
        batch: rows of a call of the graph.
    """

    scorer: Scorer
    files: Files
    kept: tuple[str, ...]
    batch: int

    def write(self, task: Task, pool: ThreadPoolExecutor) -> Scored:
        """Write the part of a file, unless it is there: two that write it at a time leave it there once.

        Raises:
            InputError: the file cannot be read, or a value cannot be used.
            OSError: the part cannot be written.
        """
        begun = time.perf_counter()
        rows = _rows(task.part) if task.part.is_dir() else self._fresh(task, pool)
        return Scored(task.file.name, rows, time.perf_counter() - begun)

    def _fresh(self, task: Task, pool: ThreadPoolExecutor) -> int:
        draft, rows = Path(tempfile.mkdtemp(prefix=f"draft-{task.part.name}-", dir=task.part.parent)), 0
        try:
            for number, frame in enumerate(self._frames(task.file, pool)):
                frame.write_parquet(draft / f"{number:06}.parquet")
                rows += len(frame)
            _publish(draft, task.part)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return rows

    def _frames(self, file: DataFile, pool: ThreadPoolExecutor) -> Iterator[pl.DataFrame]:
        for chunk in self.files.of(file, self.kept):
            yield self.scorer.scored(chunk, self.kept, self.batch, pool)


def here(writer: PartWriter, tasks: Sequence[Task], threads: int | None) -> Iterator[Scored]:
    """Score files one after the other, batches of a file at a time.

    Args:
        writer: scores them.
        tasks: what is to be done.
        threads: batches that are answered at a time; None takes one a core.
    """
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        for task in tasks:
            stage(f"scoring {task.file.name}")
            yield writer.write(task, pool)


def chunks(part: Path) -> list[Path]:
    """The files of a part, in order."""
    return sorted(part.iterdir())


def _rows(part: Path) -> int:
    return int(pl.scan_parquet(chunks(part), glob=False).select(pl.len()).collect().item())


def _publish(draft: Path, part: Path) -> None:
    """Where another worker has been faster, its part stays: the two are equal."""
    draft.chmod(0o755)
    try:
        draft.rename(part)
    except OSError:
        if not part.is_dir():
            raise
