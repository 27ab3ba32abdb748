"""What every reader of files shares: the columns that say where a row stands, and Polars' errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from amtl_export.errors import InputError

#: Columns that every chunk carries beside the data's own: where each row stands.
ROW = "__row"
FILE = "__file"


_ZONE = re.compile(r"unable to parse time zone: '([^']*)'")


class Check(Protocol):
    """Follows one pass over a file."""

    def chunk(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows of a chunk that count.

        Raises:
            InputError: a row cannot be used.
        """

    def finish(self, parsed: bool = True) -> None:
        """The pass is at its end.

        Args:
            parsed: whether Polars could read the file.

        Raises:
            InputError: what is left cannot be used.
        """


class CheckMaker(Protocol):
    """Makes the check of a fresh pass."""

    def __call__(self) -> Check:
        """A check that has seen nothing."""


class Unchecked:
    """Of a format that has no lines."""

    def chunk(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows as they are."""
        return chunk

    def finish(self, parsed: bool = True) -> None:
        """Nothing is left."""


class Reading(NamedTuple):
    """A lazy frame over a file with `__row` from 0, and what to check on the way."""

    frame: pl.LazyFrame
    check: CheckMaker = Unchecked


@contextmanager
def polars_errors(file: Path) -> Iterator[None]:
    """Turn Polars' own error, or panic, inside the block into an `InputError` that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        found = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if zone := _ZONE.search(found):
            raise InputError(
                "a column of times has a time zone that is not read",
                where=file,
                found=zone[1],
                allowed="UTC, whole hours like +02:00, or the name of a zone like Asia/Kolkata",
                fix="write the file with its times in UTC or in a named zone",
            ) from None
        if isinstance(error, pl.exceptions.NoDataError):
            raise InputError("the file is empty", where=file) from None
        if isinstance(error, pl.exceptions.DuplicateError):
            taken = ROW in found
            raise InputError(
                "a column has a name that is taken" if taken else "a name stands for two columns",
                where=file,
                found=ROW if taken else found,
                fix="rename the column in the file" if taken else "rename one of them",
            ) from None
        fix = "is it cut off, or are [files] format, separator and quote in schema.toml right?"
        if "utf-8" in found.lower():
            fix = '[files] encoding = "latin-1" in schema.toml, or store the file as UTF-8'
        elif "not yet supported" in found.lower():
            fix = "store the column as another type: text, or numbers of at most 38 digits"
        raise InputError("the file cannot be parsed", where=file, found=found, fix=fix) from error
