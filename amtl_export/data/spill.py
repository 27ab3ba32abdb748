"""Frames that wait on disk."""

from __future__ import annotations

import io
import mmap
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

import polars as pl

from amtl_export.errors import os_errors
from amtl_export.interruptions import interruptions_held


class Spill:
    """Frames in a file without a name: it is gone when the block ends, or the process, however that happens.

    Args:
        folder: on the file system that takes them; made when the first frame comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, frame: pl.DataFrame) -> slice:
        """Where `read` finds it.

        Raises:
            EnvironmentLacks: no room, or no permission.
        """
        buffer = io.BytesIO()  # so that a full disk is an OSError
        frame.write_parquet(buffer, compression="lz4", statistics=False)
        left = buffer.getbuffer()
        with os_errors("putting counted values aside", self._folder):
            file = self._opened()
            start = file.tell()
            while left:
                left = left[file.write(left) :]
            return slice(start, file.tell())

    def read(self, place: slice) -> pl.DataFrame:
        """What was written there."""
        with os_errors("reading counted values", self._folder):
            file = self._opened()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                stored = mapped[place]
        return pl.read_parquet(stored)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with interruptions_held():
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - `__exit__` does
        return self._file
