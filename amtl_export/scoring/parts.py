"""The scores of one file: a folder of Parquet files, one a chunk, and a list of them; there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from amtl_export.data.folder import DataFile
from amtl_export.data.source import Files
from amtl_export.errors import InputError
from amtl_export.files import permit, read_object, sha256, sync, write_json
from amtl_export.runtime.cores import usable_cores
from amtl_export.scoring.scorer import Scorer
from amtl_export.stages import stage

#: In a part: its chunks, their rows and checksums.
_LIST = "chunks.json"


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
        batch: rows of a call of the graph.
    """

    scorer: Scorer
    files: Files
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
        draft = Path(tempfile.mkdtemp(prefix=f"draft-{task.part.name}-", dir=task.part.parent))
        listed: dict[str, dict[str, Any]] = {}
        try:
            for number, frame in enumerate(self._frames(task.file, pool)):
                file = draft / f"{number:06}.parquet"
                frame.write_parquet(file)
                sync(file)
                listed[file.name] = {"rows": len(frame), "sha256": sha256(file)}
            write_json(draft / _LIST, listed)
            sync(draft / _LIST)
            _publish(draft, task.part)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return sum(chunk["rows"] for chunk in listed.values())

    def _frames(self, file: DataFile, pool: ThreadPoolExecutor) -> Iterator[pl.DataFrame]:
        """The scores, chunk by chunk; of a file without a row, one chunk of none."""
        some = False
        for chunk in self.files.of(file):
            some = True
            yield self.scorer.scored(chunk, self.files.kept, self.batch, pool)
        if not some:
            yield self.scorer.scored(self.files.none_of(file), self.files.kept, self.batch, pool)


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
    """The files of a part that is whole, in order."""
    return [part / name for name in sorted(read_object(part / _LIST))]


def is_whole(part: Path) -> bool:
    """Whether a part holds the files that its list names, as they were written, and no others."""
    listed = _listed(part)
    return bool(listed) and (
        {path.name for path in part.iterdir()} == {_LIST, *listed}
        and all(
            (part / name).is_file() and sha256(part / name) == chunk.get("sha256") for name, chunk in listed.items()
        )
    )


def discard(part: Path) -> None:
    """Remove a part, whatever is there."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


def _rows(part: Path) -> int:
    return sum(chunk["rows"] for chunk in read_object(part / _LIST).values())


def _listed(part: Path) -> dict[str, Any]:
    """File of a part → its rows and checksum; nothing if there is no such list."""
    try:
        values = read_object(part / _LIST)
    except InputError:
        return {}
    known = all(isinstance(own, dict) and isinstance(own.get("rows"), int) for own in values.values())
    return values if known else {}


def _publish(draft: Path, part: Path) -> None:
    """Where another worker has been faster, its part stays: the two are equal."""
    permit(draft)
    try:
        draft.rename(part)
    except OSError:
        if not part.is_dir():
            raise
