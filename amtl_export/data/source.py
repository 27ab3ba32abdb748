"""Where rows come from: files through a `schema.toml`, or a named source. Always chunk by chunk."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from amtl_export.data.schema import FileFormat, Schema
from amtl_export.errors import InputError, os_errors

#: Rows read at a time. Bounds memory whatever the size of the file.
CHUNK_ROWS = 262_144

#: Columns that every chunk carries beside the data's own: where each row stands.
ROW = "__row"
FILE = "__file"

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".parquet": "parquet"}
_SEPARATORS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Source:
    """Rows and what they mean.

    Attributes:
        name: as given.
        schema: the meaning of the columns.
        chunks: opens a fresh pass over the rows; frames carry `__row` (from 0, within its file) and `__file`.
        path: where the files are, None for `synthetic`.
    """

    name: str
    schema: Schema
    chunks: Callable[[], Iterator[pl.DataFrame]]
    path: Path | None = None


def folder_source(place: Path) -> Source:
    """A folder (or one file) of CSV, TSV or Parquet with its `schema.toml`."""
    folder = place if place.is_dir() else place.parent
    schema = Schema.from_toml(folder / "schema.toml")
    files = [place] if place.is_file() else _matching(folder, schema.files)
    return Source(str(place), schema, functools.partial(_read_files, files, schema), place)


def _matching(folder: Path, files: FileFormat) -> list[Path]:
    suffixes = {s for s, f in _SUFFIXES.items() if files.format in (None, f)}
    found = sorted(folder.glob(files.pattern)) if files.pattern else sorted(folder.iterdir())
    found = [p for p in found if p.is_file() and (files.pattern or p.suffix in suffixes)]
    if not found:
        raise InputError(
            "no data files in the folder",
            where=folder,
            allowed=files.pattern or " ".join(sorted(suffixes)),
            fix="check the folder, or [files] pattern in schema.toml",
        )
    return found


def _read_files(files: list[Path], schema: Schema) -> Iterator[pl.DataFrame]:
    for file in files:
        frame = scan_file(file, schema.files)
        _check_columns(frame, file, schema)
        own = [name for name in frame.collect_schema().names() if name.startswith("__")]
        yield from stream(frame.select(*own, *sorted(schema.columns())), file)


def _check_columns(frame: pl.LazyFrame, file: Path, schema: Schema) -> None:
    with polars_errors(file):
        present = set(frame.collect_schema().names())
    lacking = sorted(schema.columns() - present)
    if lacking:
        raise InputError(
            "the data lacks columns that the schema names",
            where=file,
            found=f"columns {sorted(present - {ROW})}",
            allowed=f"also {lacking}",
            fix="correct schema.toml, or [files] header, columns and separator",
        )


def scan_file(file: Path, files: FileFormat) -> pl.LazyFrame:
    """A lazy frame over one file: every text column as String, empty as null, `__row` from 0.

    Raises:
        InputError: the file is missing, empty or of unknown format.
    """
    if not file.is_file():
        raise InputError("no such file", where=file)
    if file.stat().st_size == 0:
        raise InputError("the file is empty", where=file)
    kind = files.format or _SUFFIXES.get(file.suffix)
    if kind is None:
        raise InputError(
            "unknown file format", where=file, found=file.suffix, fix='[files] format = "csv" in schema.toml'
        )
    with polars_errors(file):
        if kind == "parquet":
            return pl.scan_parquet(file).with_row_index(ROW)
        separator = files.separator or _SEPARATORS[kind]
        return scan_text(file, separator, files)


def scan_text(file: Path, separator: str, files: FileFormat) -> pl.LazyFrame:
    """A lazy frame over a delimited text file; separators may be longer than one character."""
    encoded: pl.LazyFrame
    source: Path | bytes = file
    if files.encoding == "latin-1":
        source = file.read_bytes().decode("latin-1").encode("utf-8")
    columns = list(files.columns) if files.columns else None
    if len(separator.encode()) == 1:
        _refuse_truncated(file, separator, files)
        encoded = pl.scan_csv(
            source,
            separator=separator,
            has_header=files.header,
            new_columns=columns,
            quote_char=files.quote or None,
            infer_schema=False,
            null_values=["", *files.missing],
            row_index_name=ROW,
        )
        return encoded
    lines = pl.scan_csv(
        source,
        separator="\x01",
        has_header=False,
        new_columns=["line"],
        quote_char=None,
        infer_schema=False,
        row_index_name=ROW,
    )
    if columns is None:
        first = _first_line(file, files.encoding)
        columns = first.split(separator)
        lines = lines.filter(pl.col(ROW) > 0).with_columns(pl.col(ROW) - 1)
    parts = pl.col("line").str.split(separator)
    expected = len(columns)
    wrong = pl.when(parts.list.len() != expected).then(pl.col("line"))
    texts = [parts.list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(columns)]
    nulls = ["", *files.missing]
    cleaned = [pl.when(pl.col(c).is_in(nulls)).then(None).otherwise(pl.col(c)).alias(c) for c in columns]
    return (
        lines.select(ROW, wrong.alias(WRONG_LINE), *texts)
        .with_columns(*cleaned)
        .with_columns(pl.lit(expected).alias(EXPECTED_PARTS))
    )


#: A line that did not split into the expected number of parts (multi-character separators only).
WRONG_LINE = "__wrong_line"
EXPECTED_PARTS = "__expected_parts"


def _first_line(file: Path, encoding: str) -> str:
    with file.open(encoding=encoding) as text:
        return text.readline().rstrip("\r\n")


def _refuse_truncated(file: Path, separator: str, files: FileFormat) -> None:
    """A last line without its newline and with fewer columns than the first is a cut-off file."""
    with file.open("rb") as data:
        first = data.readline()
        size = data.seek(0, 2)
        data.seek(max(0, size - 65_536))
        tail = data.read()
    if tail.endswith((b"\n", b"\r")):
        return
    last = tail.splitlines()[-1]
    counts = []
    for line in (first, last):
        text = [line.decode("utf-8", "replace")]
        if files.quote:
            reader = csv.reader(text, delimiter=separator, quotechar=files.quote)
        else:
            reader = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE)
        counts.append(len(next(reader, [])))
    if counts[1] < counts[0]:
        raise InputError(
            "the file looks cut off: its last line has no end and too few columns",
            where=file,
            found=f"{counts[1]} columns: {last[:60].decode('utf-8', 'replace')!r}",
            allowed=f"{counts[0]} columns",
            fix="fetch the file again, or remove the last line",
        )


def stream(frame: pl.LazyFrame, file: Path) -> Iterator[pl.DataFrame]:
    """Chunks of a lazy frame in the file's order, with `__file` filled in.

    Raises:
        InputError: the file cannot be parsed; a line has the wrong number of parts.
    """
    with polars_errors(file), os_errors("reading data", file):
        columns = frame.collect_schema().names()
        for chunk in frame.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            if WRONG_LINE in columns:
                _refuse_wrong_lines(chunk, file)
            yield chunk.with_columns(pl.lit(file.name).alias(FILE))


def _refuse_wrong_lines(chunk: pl.DataFrame, file: Path) -> None:
    wrong = chunk.filter(pl.col(WRONG_LINE).is_not_null())
    if len(wrong):
        row = wrong.row(0, named=True)
        raise InputError(
            "a line does not split into the expected columns",
            where=f"{file}, row {row[ROW] + 1}",
            found=repr(row[WRONG_LINE][:80]),
            allowed=f"{row[EXPECTED_PARTS]} columns",
            fix="is the file cut off, or the separator another?",
        )


@contextmanager
def polars_errors(file: Path) -> Iterator[None]:
    """Turn Polars' own error inside the block into an `InputError` that names the file."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "the file cannot be parsed",
            where=file,
            found=str(error).strip().splitlines()[0],
            fix="is it cut off, or are [files] format, separator and quote in schema.toml right?",
        ) from error
