"""Every line has the header's columns, or is named; what is accepted, Polars reads as Python's csv does."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data import lines as lines_module
from amtl_export.data.file_format import FileFormat
from amtl_export.data.frames import FILE, ROW
from amtl_export.data.lines import Dialect, LineCheck
from amtl_export.data.stream import present_columns, stream
from amtl_export.data.text_files import read_text
from amtl_export.errors import InputError

texts = st.text(alphabet='ab",;\n\r é', max_size=6).filter(lambda text: "\r" not in text.replace("\r\n", ""))
tables = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(texts, min_size=n, max_size=n), min_size=1, max_size=9))
endings = st.sampled_from(["\n", "\r\n"])


def written(table: list[list[str]], ending: str, quoting: Literal[0, 1, 2, 3]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending, quoting=quoting)
    writer.writerow([f"c{i}" for i in range(len(table[0]))])
    writer.writerows(table)
    return text.getvalue()


def read(file: Path, **options: Any) -> pl.DataFrame:
    reading = read_text(file, ",", FileFormat.model_validate(options))
    present_columns(reading, file)
    return pl.concat(stream(reading, file)).drop(FILE)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "a.csv"


@given(tables, endings, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), st.booleans(), st.sampled_from([5, 64]))
def test_what_csv_writes_is_read(
    file: Path, table: list[list[str]], ending: str, quoting: Literal[0, 1, 2, 3], ended: bool, block: int
) -> None:
    text = written(table, ending, quoting)
    file.write_bytes((text if ended else text.removesuffix(ending)).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK", block)
        patch.setattr(lines_module, "_WHOLE", {})
        found = read(file)
    assert found.drop(ROW).rows() == [tuple(text or None for text in row) for row in table]


words = st.text(alphabet="ab é", min_size=1, max_size=4)


@given(st.lists(st.lists(words, min_size=3, max_size=3), min_size=1, max_size=9), endings, st.data())
def test_a_line_that_lost_a_separator_is_named(
    file: Path, table: list[list[str]], ending: str, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(table) - 1))
    others = [[*cells[:2], 'x,"y"\n'] for cells in table]
    others[row] = table[row]
    lines = written(others, ending, csv.QUOTE_MINIMAL)
    whole = ",".join(table[row])
    cut = lines.replace(whole + ending, "".join(table[row][:2]) + "," + table[row][2] + ending)
    file.write_bytes(cut.encode())
    with pytest.raises(InputError, match=rf"too few columns\n.*a\.csv, row {row + 1}\n  found: 2 columns"):
        read(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3\n4,5\n", "too few columns.*row 2.*found: 1 columns: '3'.*allowed: 2"),
        ("a,b\n1,2\n3,4,5\n", "too many columns.*row 2.*found: 3 columns"),
        ("a,b\n1,2\n\n3,4\n", "an empty line in the middle.*row 2"),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", "an empty line in the middle.*row 2"),
        ("a,b\n1,2\n3", "cut off.*row 2"),
        ('a,b\n1,"2\n3\n', "a quote opens.*row 1.*cut off"),
        ('a,b\n"x\ny",2\n3\n', "too few columns.*row 2"),
        ('a,b\nx"y,2\n3\nx"y,4\n', "too few columns.*row 2"),
        ('a,b\nx"b,c"d,e\n', "too many columns.*row 1.*found: 3"),
        ("\n\na,b\n1\n", "too few columns.*row 1"),
    ],
)
def test_refuses(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    with pytest.raises(InputError) as caught:
        LineCheck(file, Dialect(b",", b'"', None)).finish()
    assert re.search(says, str(caught.value).replace("\n", " ")), caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n\n\n", [("1", "2")]),
        ("a,b\r\n1,2\r\n\r\n", [("1", "2")]),
        ("\n\na,b\n1,2\n", [("1", "2")]),
        ("a\n1\n\n2\n", [("1",), (None,), ("2",)]),
        ('a,b\n1,x"y"z\n3,4', [("1", 'x"y"z'), ("3", "4")]),
        ('a,b\n1,2\n3,4"', [("1", "2"), ("3", '4"')]),
        ('a,b\n1,"2\n"', [("1", "2\n")]),
        ("\ufeffa,b\n1,2\n", [("1", "2")]),
    ],
)
def test_accepts(tmp_path: Path, text: str, expected: list[tuple[str | None, ...]]) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode())
    assert read(file).drop(ROW).rows() == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('0,b,"y"\n1,c,a"b\n0,a,z\n1,c"d,z\n', r"in the middle of a text.*row 3\n.*c,a\"b"),
        ('0,b,y\n1,a"b,c\n', r"in the middle of a text.*row 3\n.*1,a\"b"),
        ('0,"b"x,y\n1,a,c\n', r"does not end with one.*row 2\n.*0,\"b\"x"),
        ('0,b,y\n1,"a" ,c', r"does not end with one.*row 3\n.*1,\"a\" "),
    ],
)
@pytest.mark.parametrize("again", [1, 2])
def test_quotes_that_polars_cannot_parse_are_named(tmp_path: Path, text: str, says: str, again: int) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"a,b,c\n1,a,x\n{text}")
    for _ in range(again):
        with pytest.raises(InputError, match=f"(?s){says}"):
            read(file)


def test_a_column_that_is_called_like_the_number_of_a_row(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"a,{ROW}\n1,2\n")
    with pytest.raises(InputError, match=rf"(?s)a name that is taken.*a\.csv.*{ROW}.*rename"):
        read(file)


def test_without_a_header_the_columns_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbf1,2\n3,4\n\n")
    options = {"header": False, "columns": ("a", "b")}
    assert read(file, **options).drop(ROW).rows() == [("1", "2"), ("3", "4")]
    file.write_bytes(b"1,2\n3\n")
    with pytest.raises(InputError, match=r"a\.csv, row 2"):
        read(file, **options)


def test_without_quotes_a_quote_is_a_character(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'a,b\n"x,y\n')
    assert read(file, quote="").drop(ROW).rows() == [('"x', "y")]


def test_a_pass_that_stops_early_reads_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK", 64)
    file = tmp_path / "a.csv"
    file.write_bytes(b"a,b\n" + b"1,2\n" * 100 + b"3\n")
    check = LineCheck(file, Dialect(b",", b'"', None))
    assert len(check.chunk(pl.DataFrame({ROW: [0, 1, 2]}))) == 3
    with pytest.raises(InputError, match="row 101"):
        check.finish()


def test_a_quote_that_never_closes_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "BLOCK", 64)
    monkeypatch.setattr(lines_module, "LONGEST", 1000)
    file = tmp_path / "a.csv"
    file.write_bytes(b'a,b\n1,"' + b"1,2\n" * 100_000)
    with pytest.raises(InputError, match="row 1\n"):
        LineCheck(file, Dialect(b",", b'"', None)).finish()


@pytest.mark.parametrize("packer", [["gzip", "-k"], ["zstd", "-q"]])
def test_packed_files_are_checked_too(tmp_path: Path, packer: list[str]) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'a,b\n1,"x\r\ny"\n3\n')
    try:
        subprocess.run([*packer, str(file)], check=True)
    except FileNotFoundError:
        pytest.skip(f"{packer[0]} is not there")
    packed = next(path for path in tmp_path.iterdir() if path != file)
    with pytest.raises(InputError, match=r"too few columns\n.*row 2"):
        read(packed)
