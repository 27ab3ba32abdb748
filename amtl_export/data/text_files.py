"""Delimited text, packed or not, as lazy frames: every column String, only the empty text null."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from amtl_export.data.file_format import FileFormat
from amtl_export.data.frames import ROW, Reading, polars_errors
from amtl_export.data.lines import Dialect, LineCheck, packing
from amtl_export.errors import InputError, os_errors

#: A line that cannot be used, and what a line may be.
WRONG_LINE = "__wrong_line"
EMPTY_LINE = "__empty_line"

#: Between columns, by format.
SEPARATORS = {"csv": ",", "tsv": "\t"}

#: Suffixes of packed files → what packs them.
PACKED = {".gz": "gzip", ".zst": "zstd"}


def read_text(file: Path, separator: str, files: FileFormat) -> Reading:
    """Read a delimited text file; separators may be longer than one character.

    Raises:
        InputError: the file cannot be read or unpacked.
    """
    _refuse_wrong_packing(file)
    text = _latin1(file) if files.encoding == "latin-1" else None
    if len(separator.encode()) > 1:
        return _split_lines(file, text, separator, files)
    columns = list(files.columns) if files.columns else None
    with polars_errors(file), unpacking(file):
        frame = pl.scan_csv(
            file.absolute() if text is None else text,
            glob=False,
            separator=separator,
            has_header=files.header,
            new_columns=columns,
            quote_char=files.quote or None,
            infer_schema=False,
            null_values=[""],
            row_index_name=ROW,
        )
    expected = len(columns) if columns and not files.header else None
    dialect = Dialect(separator.encode(), files.quote.encode(), expected)
    return Reading(frame, functools.partial(LineCheck, file, dialect, text))


def scan_lines(file: Path, text: bytes | None = None) -> pl.LazyFrame:
    """The lines of a file: `__row` from 0 and `line`, without a byte order mark."""
    with polars_errors(file), unpacking(file):
        frame = pl.scan_lines(file.absolute() if text is None else text, glob=False, row_index_name=ROW)
    start = pl.when(pl.col(ROW) == 0).then(pl.col("line").str.strip_prefix("\ufeff")).otherwise(pl.col("line"))
    return frame.with_columns(line=start)


def _split_lines(file: Path, text: bytes | None, separator: str, files: FileFormat) -> Reading:
    lines = scan_lines(file, text)
    columns = list(files.columns) if files.columns else []
    if files.header:
        with polars_errors(file), unpacking(file):
            first = lines.filter(pl.col("line") != "").head(1).collect()
        if not len(first):
            raise InputError("the file is empty", where=file)
        start = first[ROW][0] + 1
        columns = columns or first["line"][0].split(separator)
        if len(set(columns)) != len(columns):
            raise InputError("the header names a column twice", where=file, found=columns, fix="rename one of the two")
        lines = lines.filter(pl.col(ROW) >= start).with_columns(pl.col(ROW) - start)
    parts = pl.col("line").str.split(separator)
    expected = len(columns)
    wrong = pl.when(parts.list.len() != expected).then(pl.col("line")).alias(WRONG_LINE)
    empty = (pl.col("line") == "").alias(EMPTY_LINE) if expected > 1 else pl.lit(False).alias(EMPTY_LINE)
    texts = [parts.list.get(i, null_on_oob=True).replace("", None).alias(name) for i, name in enumerate(columns)]
    frame = lines.select(ROW, wrong, empty, *texts)
    return Reading(frame, functools.partial(SplitCheck, file, f"{expected} columns"))


class SplitCheck:
    """Refuses lines that did not split as they should, and empty ones that are not at the end.

    Args:
        file: for the messages.
        allowed: what a line may be.
        fix: what to do about another.
        what: is wrong with it.
    """

    def __init__(
        self,
        file: Path,
        allowed: str,
        fix: str = "is the file cut off, or the separator another?",
        what: str = "a line does not split into the expected columns",
    ) -> None:
        self._file, self._allowed, self._fix, self._what = file, allowed, fix, what
        self._empty: int | None = None

    def chunk(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The lines less the empty ones at the end.

        Raises:
            InputError: a line cannot be used.
        """
        wrong = chunk.filter(pl.col(WRONG_LINE).is_not_null() & ~pl.col(EMPTY_LINE)).head(1)
        full = chunk.filter(~pl.col(EMPTY_LINE))
        if self._empty is None and len(full) < len(chunk):
            self._empty = chunk.filter(EMPTY_LINE)[ROW][0]
        if self._empty is not None and len(full) and full[ROW][-1] > self._empty:
            bad = wrong[ROW][0] if len(wrong) else self._empty
            if bad >= self._empty:
                self._refuse("an empty line in the middle of the file", self._empty, "", "remove the line, or fill it")
        if len(wrong):
            self._refuse(self._what, wrong[ROW][0], wrong[WRONG_LINE][0], self._fix)
        return full.drop(WRONG_LINE, EMPTY_LINE)

    def finish(self, parsed: bool = True) -> None:
        """Empty lines at the end do not count."""

    def _refuse(self, what: str, row: int, line: str, fix: str) -> None:
        found = repr(line[:80])
        raise InputError(what, where=f"{self._file}, row {row + 1}", found=found, allowed=self._allowed, fix=fix)


def _latin1(file: Path) -> bytes:
    with os_errors("reading data", file), unpacking(file):
        found = packing(file)
        if found == "zstd":
            raise InputError(
                "a latin-1 file packed with zstd cannot be read", where=file, fix="pack it with gzip, or make it UTF-8"
            )
        data = gzip.decompress(file.read_bytes()) if found else file.read_bytes()
    return data.decode("latin-1").encode("utf-8")


def _refuse_wrong_packing(file: Path) -> None:
    named, found = PACKED.get(file.suffix.lower()), packing(file)
    if named is not None and named != found:
        raise InputError(
            f"the file is no {named} file",
            where=file,
            found=found or "another start",
            fix="fetch it again, or name it for what it is",
        )


@contextmanager
def unpacking(file: Path) -> Iterator[None]:
    """Turn an error of unpacking inside the block into an `InputError` that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        if packing(file) is None:
            raise
        raise InputError(
            "the packed file is damaged or cut off", where=file, found=error, fix="fetch or pack the file again"
        ) from None
