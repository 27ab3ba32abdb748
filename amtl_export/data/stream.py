"""One pass over one file, chunk by chunk, every line checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from amtl_export.data.frames import FILE, Check, Reading, polars_errors
from amtl_export.data.text_files import unpacking
from amtl_export.errors import InputError, os_errors

#: Rows read at a time. Bounds memory whatever the size of the file.
CHUNK_ROWS = 262_144


def refuse_empty(file: Path) -> None:
    """Refuse what cannot be read at all.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    if not file.is_file():
        raise InputError("no such file", where=file)
    if file.stat().st_size == 0:
        raise InputError("the file is empty", where=file)


def present_columns(reading: Reading, file: Path) -> list[str]:
    """The names of a file's columns, with those that say where a row stands.

    Raises:
        InputError: the file cannot be parsed.
    """
    with polars_errors(file), unpacking(file), _lines_first(reading.check()):
        return reading.frame.collect_schema().names()


def stream(reading: Reading, file: Path, name: str | None = None) -> Iterator[pl.DataFrame]:
    """Chunks of a file in its order, checked, with `__file` filled in.

    Args:
        reading: of the file.
        file: for the messages.
        name: of the file within its folder; the last part of its path when not given.

    Raises:
        InputError: the file cannot be parsed; a line cannot be used.
    """
    check = reading.check()
    with polars_errors(file), os_errors("reading data", file), unpacking(file), _lines_first(check):
        for chunk in reading.frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            yield check.chunk(chunk).with_columns(pl.lit(name or file.name).alias(FILE))
        check.finish()


@contextmanager
def _lines_first(check: Check) -> Iterator[None]:
    """Where Polars cannot parse a file, the check may know which row it is."""
    try:
        yield
    except pl.exceptions.PolarsError:
        check.finish(parsed=False)
        raise
