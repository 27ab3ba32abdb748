"""Whether each line of a delimited text has as many columns as its header. Polars fills short lines without a word.

The bytes are read in blocks beside Polars' own reading, never further ahead than the rows that it has given out, so a
pass that stops early stops here too. Quotes are counted: where their number is even, a separator or line break is one.
What does not fit that count, or has a quote in the middle of an unquoted text, is counted again exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.frames import ROW, polars_errors
from amtl_export.errors import InputError, os_errors
from amtl_export.files import real

BLOCK = 8 << 20
#: No row may be longer: its quotes do not end.
LONGEST = 256 << 20
BOM = b"\xef\xbb\xbf"
_LF, _CR = ord("\n"), ord("\r")

#: Files that were read to their end: path, size, time and dialect → rows.
_WHOLE: dict[tuple[object, ...], int] = {}


@dataclass(frozen=True)
class Dialect:
    """How a text is delimited.

    Attributes:
        separator: one byte.
        quote: one byte, or none.
        columns: how many each line has; None to take the header's.
    """

    separator: bytes
    quote: bytes
    columns: int | None


class LineCheck:
    """Follows one pass over a file.

    Args:
        file: for the messages.
        dialect: of the file.
        text: the whole text, where it is in memory already.
    """

    def __init__(self, file: Path, dialect: Dialect, text: bytes | None = None) -> None:
        self._file, self._dialect, self._expected = file, dialect, dialect.columns
        stat = file.stat()
        self._key = (str(real(file)), stat.st_size, stat.st_mtime_ns, dialect)
        self._rows, self._empty, self._rest = _WHOLE.get(self._key, 0), 0, b""
        self._done = self._key in _WHOLE
        self._blocks = _blocks_of(text) if text is not None else _blocks(file)
        self._first, self._ended = True, False
        self._stray: tuple[int, bytes] | None = None
        separator = re.escape(dialect.separator)
        quote = re.escape(dialect.quote)
        self._quoted = re.compile(
            rb"(?:(?<=%b)|(?<=\n)|\A)%b(?:[^%b]++|%b%b)*+%b(?=%b|\r?\n|\r?\Z)" % (separator, *(quote,) * 5, separator)
            if quote
            else rb"(?!)"
        )

    def chunk(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """The rows that Polars read, less those that it made of empty lines at the end of the file.

        Raises:
            InputError: a line has too few or too many columns, or is empty and not at the end.
        """
        if not len(chunk):
            return chunk
        last = int(chunk[ROW].max()) + 1  # type: ignore[arg-type]  # a chunk has rows
        self._advance(last)
        return chunk.filter(pl.col(ROW) < self._rows) if self._done and last > self._rows else chunk

    def finish(self, parsed: bool = True) -> None:
        """Read what is left.

        Args:
            parsed: whether Polars could read the file. It may fail at a quote in the middle of a text.

        Raises:
            InputError: as `chunk`; it could not, and there is such a quote.
        """
        self._advance(None)
        if not parsed:
            _WHOLE.pop(self._key, None)  # it is read again, and refused again, whoever asks next
            if self._stray:
                self._refuse_quote(*self._stray, "a quote stands in the middle of a text")

    def _advance(self, rows: int | None) -> None:
        while not self._done and (rows is None or self._rows < rows):
            block = next(self._blocks, b"")
            if self._first:
                block, self._first = block.removeprefix(BOM), False
            self._ended = not block
            text = self._rest + block
            if self._ended and text and not text.endswith(b"\n"):
                text += b"\n"
            self._rest = text[self._scan(text) :]
            if len(self._rest) > LONGEST or (self._ended and self._rest):
                self._end_inside_quotes()
            if self._ended:
                self._done = True
                _WHOLE[self._key] = self._rows

    def _scan(self, text: bytes) -> int:
        """Check the whole lines of `text`; how many bytes they are."""
        data = np.frombuffer(text, np.uint8)
        ends, separators, doubtful = _lines(data, self._dialect)
        if not len(ends):
            return 0
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts
        blank = (lengths == 0) | ((lengths == 1) & (data[starts] == _CR))
        first = 0
        if self._expected is None:
            if blank.all():
                return int(ends[-1]) + 1
            first = int(np.argmin(blank)) + 1
            self._expected = self._counts(text[starts[first - 1] : ends[first - 1]])[0]
        if self._expected == 1:
            blank[:] = False
        full = np.flatnonzero(~blank[first:]) + first
        stop = int(full[-1]) + 1 if len(full) else first
        if stop > first and self._empty:
            self._refuse(self._rows + 1, b"", last=False)
        suspect = blank | (separators != self._expected - 1)
        stray = np.searchsorted(ends, doubtful)
        suspect[stray] = True
        more = 0
        for index in np.flatnonzero(suspect[first:stop]) + first:
            line = text[starts[index] : ends[index]]
            counts = self._counts(line)
            row = self._rows + int(index) - first + more + 1
            if self._is_open(line):
                self._refuse_quote(row, line, "a text begins with a quote and does not end with one")
            if self._stray is None and index in stray:
                self._stray = row, line
            if blank[index] or counts != [self._expected] * len(counts):
                wrong = 0 if blank[index] else next(i for i, n in enumerate(counts) if n != self._expected)
                last = self._ended and int(ends[index]) == len(text) - 1 and wrong == len(counts) - 1
                self._refuse(row + wrong, line if len(counts) == 1 else line.split(b"\n")[wrong], last)
            more += len(counts) - 1
        self._rows += stop - first + more
        self._empty += len(ends) - stop
        return int(ends[-1]) + 1

    def _counts(self, line: bytes) -> list[int]:
        """Columns of the lines in `line`, exactly: a quote in the middle of an unquoted text is a character."""
        bare = self._quoted.sub(b"", line)
        return [part.count(self._dialect.separator) + 1 for part in bare.split(b"\n")]

    def _refuse(self, row: int, line: bytes, last: bool) -> None:
        found = self._counts(line)[0]
        shown = repr(line[:80].decode("utf-8", "replace").rstrip("\r"))
        unended = last and not _ends_in_newline(self._file)
        if not line.rstrip(b"\r"):
            what, fix = "an empty line in the middle of the file", "remove the line, or fill it"
        elif unended and found < (self._expected or 0):
            what = "the file looks cut off: its last line has no end and too few columns"
            fix = "fetch the file again, or remove the last line"
        else:
            what = f"a line has too {'few' if found < (self._expected or 0) else 'many'} columns"
            fix = "correct the line, or [files] separator and quote in schema.toml"
        raise InputError(
            what,
            where=f"{self._file}, row {row}",
            found=f"{found if line.strip() else 'no'} columns: {shown}",
            allowed=f"{self._expected} columns",
            fix=fix,
        )

    def _end_inside_quotes(self) -> None:
        """A last line with a quote in the middle of an unquoted text is whole; a text that begins with one is not."""
        line = self._rest.rstrip(b"\r\n")
        row = self._rows + self._empty + 1
        if self._expected is not None and len(self._counts(line)) == 1 and not self._is_open(line):
            if self._empty:
                self._refuse(self._rows + 1, b"", last=False)
            if self._counts(line) != [self._expected]:
                self._refuse(row, line, last=True)
            self._rows = row
            self._stray = self._stray or (row, line)
            return
        self._refuse_quote(row, line)

    def _is_open(self, line: bytes) -> bool:
        """Whether a text begins with a quote and does not end with one."""
        dialect, bare = self._dialect, self._quoted.sub(b"", line)
        texts = (text for part in bare.split(b"\n") for text in part.split(dialect.separator))
        return bool(dialect.quote) and any(text.startswith(dialect.quote) for text in texts)

    def _refuse_quote(self, row: int, line: bytes, what: str = "a quote opens and does not close") -> None:
        raise InputError(
            what,
            where=f"{self._file}, row {row}",
            found=repr(line[:80].decode("utf-8", "replace")),
            fix='close or double the quote, or say quote = "" under [files] in schema.toml; is the file cut off?',
        )


def _lines(
    data: npt.NDArray[np.uint8], dialect: Dialect
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where lines end, how many separators each has, and quotes that open or close in the middle of a text within."""
    separator = dialect.separator[0]
    marks = data == separator
    marks |= data == _LF
    quotes = data == dialect.quote[0] if dialect.quote else None
    if quotes is None or not quotes.any():
        place = np.flatnonzero(marks)
        breaks = np.flatnonzero(data[place] == _LF)
        return place[breaks], np.diff(breaks, prepend=-1) - 1, np.empty(0, np.int64)
    marks |= quotes
    place = np.flatnonzero(marks)
    kind = data[place]
    quoting = kind == dialect.quote[0]
    odd = (np.cumsum(quoting, dtype=np.uint8) & 1).astype(bool)
    opens = place[quoting & odd]
    before = data[np.maximum(opens - 1, 0)]
    usual = (opens == 0) | (before == separator) | (before == _LF) | (before == dialect.quote[0])
    closes = place[quoting & ~odd]
    behind = data[np.minimum(closes + 1, len(data) - 1)]
    ending = (behind == separator) | (behind == _LF) | (behind == _CR) | (behind == dialect.quote[0])
    outside = np.flatnonzero(~odd & ~quoting)
    place, kind = place[outside], kind[outside]
    breaks = np.flatnonzero(kind == _LF)
    ends = place[breaks]
    stray = np.sort(np.concatenate([opens[~usual], closes[~ending]]))
    return ends, np.diff(breaks, prepend=-1) - 1, stray[stray < (ends[-1] if len(ends) else 0)]


def _blocks(file: Path) -> Iterator[bytes]:
    """The text of a file, unpacked."""
    if packing(file) is None:
        with file.open("rb") as data:
            while block := data.read(BLOCK):
                yield block
        return
    with polars_errors(file):
        for lines in pl.scan_lines(file, glob=False).collect_batches(chunk_size=100_000, maintain_order=True):
            yield "\n".join([*lines.to_series(), ""]).encode()


def _blocks_of(text: bytes) -> Iterator[bytes]:
    yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def packing(file: Path) -> str | None:
    """`gzip` or `zstd` by the file's first bytes, as Polars finds it."""
    with os_errors("reading data", file), file.open("rb") as data:
        start = data.read(4)
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if start == b"\x28\xb5\x2f\xfd" else None


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as data:
        data.seek(max(0, file.stat().st_size - 1))
        return data.read() == b"\n" or packing(file) is not None
