"""What Parquet's types become, and the two formats of index:value pairs."""

from __future__ import annotations

import base64
import gzip
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_places import SCHEMA, place, rows, write

from amtl_export.data.catalog import open_source
from amtl_export.data.encode import encode
from amtl_export.errors import InputError

LIBSVM = """label = "label > 0"
[[field]]
name = "features"
kind = "multi-valued"
min_count = 1
"""


def test_arrays_dictionaries_and_nulls(tmp_path: Path) -> None:
    folder = place(tmp_path, SCHEMA + '[[field]]\nname = "day"\nkind = "categorical"\n')
    arrays = pl.Series("u", [["a", "b"]], dtype=pl.Array(pl.Categorical(), 2))
    days = pl.Series("day", ["mon"], dtype=pl.Enum(["mon"]))
    write(folder / "b.parquet", pl.DataFrame([arrays, days, pl.Series("y", [1])]))
    write(folder / "a.parquet", pl.DataFrame({"u": [None], "day": [None], "y": [0]}))
    found = rows(folder)
    assert found.schema["u"] == pl.List(pl.String)
    assert found["u"].to_list() == [None, ["a", "b"]]
    assert found["day"].to_list() == [None, "mon"]
    assert found.schema["y"] == pl.Int64


@pytest.mark.parametrize(
    "values",
    [
        pl.Series("u", [Decimal("1.5")]),
        pl.Series("u", [datetime(2024, 5, 1, tzinfo=UTC)]),
        pl.Series("u", [2**64 - 1], dtype=pl.UInt64),
        pl.Series("u", [[1, None]]),
        pl.Series("u", [True]),
    ],
    ids=str,
)
def test_other_types_stay(tmp_path: Path, values: pl.Series) -> None:
    folder = place(tmp_path)
    write(folder / "a.parquet", pl.DataFrame([values, pl.Series("y", [1])]))
    assert rows(folder)["u"].equals(values, check_dtypes=True)


def test_lists_of_nothing_fit_any_list(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.parquet", pl.DataFrame({"u": [[], None], "y": [1, 0]}, schema={"u": pl.List(pl.Null), "y": int}))
    write(folder / "b.parquet", pl.DataFrame({"u": [["a"]], "y": [1]}))
    write(folder / "c.parquet", pl.DataFrame({"u": [None], "y": [1]}))
    assert rows(folder)["u"].to_list() == [[], None, ["a"], None]
    write(folder / "d.parquet", pl.DataFrame({"u": [[1]], "y": [1]}))
    with pytest.raises(InputError, match="different types"):
        rows(folder)


def test_files_that_differ(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.parquet", pl.DataFrame({"u": ["a"], "y": [1], "x": [1]}))
    write(folder / "b.parquet", pl.DataFrame({"u": [1.5], "y": [1], "x": ["not asked for"]}))
    with pytest.raises(InputError, match=r"'u' with different types\n.*b\.parquet\n  found: Float64\n.*a\.parquet"):
        rows(folder)


@pytest.mark.parametrize("value", [b"x", {"a": 1}, [[1]], [b"x"], [{"a": 1}]])
def test_types_without_a_field(tmp_path: Path, value: object) -> None:
    folder = place(tmp_path)
    write(folder / "a.parquet", pl.DataFrame({"u": [value], "y": [1]}))
    with pytest.raises(InputError, match=r"column 'u' has a type that no field can use"):
        rows(folder)


@pytest.mark.parametrize(
    ("asks", "times"),
    [
        ("", [None, 2**30]),
        ("", [None, [1, 2**30]]),
        ('group = "t"\n', [None, 2**30]),
        ("filter = \"t > '2024-01-01'\"\n", [None, 2**30]),
    ],
)
def test_a_time_past_any_calendar_is_named(tmp_path: Path, asks: str, times: list[Any]) -> None:
    """A text of it ends in a panic of Polars, which is no exception that anybody catches."""
    many = isinstance(times[1], list)
    kind = "multi-valued" if many else "categorical"
    field = f'[[field]]\nname = "t"\nkind = "{kind}"\n'
    folder = place(tmp_path, asks + SCHEMA + ("" if asks else field))
    column = pl.Series("t", times).cast(pl.List(pl.Date) if many else pl.Date)
    write(folder / "a.parquet", pl.DataFrame([pl.Series("u", ["a", "b"]), column, pl.Series("y", [1, 0])]))
    with pytest.raises(InputError, match=rf"'t'(?s:.*)a\.parquet, row 2\n  found: {2**30} as Date"):
        encode(open_source(str(folder)), tmp_path / "spilt", 0)


def test_a_year_that_python_does_not_hold_is_shown(tmp_path: Path) -> None:
    folder = place(tmp_path, f'{SCHEMA}[[field]]\nname = "t"\nkind = "categorical"\npart = "day"\n')
    column = pl.Series("t", [None, 253402300800000000]).cast(pl.Datetime("us"))
    write(folder / "a.parquet", pl.DataFrame([pl.Series("u", ["a", "b"]), column, pl.Series("y", [1, 0])]))
    with pytest.raises(InputError, match=r"row 2, column 't'\n  found: 253402300800000000 \(Datetime"):
        encode(open_source(str(folder)), tmp_path / "spilt", 0)


def test_a_time_zone_that_polars_does_not_know_is_named(tmp_path: Path) -> None:
    """PyArrow and pandas write `+05:30` of a fixed offset; Polars, which panics on it, writes a name: it is changed."""
    folder = place(tmp_path)
    times = pl.Series("u", [datetime(2024, 5, 1)]).dt.replace_time_zone("Etc/GMT-5")
    write(folder / "a.parquet", pl.DataFrame([times, pl.Series("y", [1])]))
    content = (folder / "a.parquet").read_bytes()
    schema = re.findall(rb"/////[A-Za-z0-9+/]+=*", content)[0]
    other = base64.b64encode(base64.b64decode(schema).replace(b"Etc/GMT-5", b"+05:30:00"))
    (folder / "a.parquet").write_bytes(content.replace(schema, other))
    with pytest.raises(InputError, match=r"(?s)time zone that is not read.*a\.parquet.*found: \+05:30:00.*UTC"):
        rows(folder)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (b"u", "a name stands for two columns.*a\\.parquet.*'u'.*rename"),
        (b"__row", "taken.*a\\.parquet.*__row.*rename"),
    ],
)
def test_a_column_name_that_is_taken(tmp_path: Path, other: bytes, says: str) -> None:
    """Polars writes no name twice: it is changed."""
    folder = place(tmp_path)
    pl.DataFrame({"u": ["a"], "y": [1], "z" * len(other): [2]}).write_parquet(folder / "a.parquet")
    content = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(content.replace(b"z" * len(other), other))
    with pytest.raises(InputError, match=f"(?s){says}"):
        rows(folder)


def test_decimals_of_more_digits_than_polars_reads(tmp_path: Path) -> None:
    """PyArrow's decimal256; Polars writes none: precision and length in the file's schema are changed, 38 to 50."""
    folder = place(tmp_path)
    numbers = pl.Series("u", [Decimal(1)], dtype=pl.Decimal(38, 2))
    pl.DataFrame([numbers, pl.Series("y", [1])]).write_parquet(folder / "a.parquet", compression="uncompressed")
    content = (folder / "a.parquet").read_bytes()
    column = b"\x15\x0e\x15\x20\x15\x02\x18\x01u%\n\x15\x04\x15\x4c,\\\x15\x04\x15\x4c"
    assert column in content
    content = content.replace(column, column.replace(b"\x15\x20", b"\x15\x40").replace(b"\x4c", b"\x64"))
    (folder / "a.parquet").write_bytes(content.replace(b"ARROW:schema", b"other:schema"))
    with pytest.raises(InputError, match=r"(?s)a\.parquet.*supported.*fix: store the column as another type.* 38"):
        rows(folder)


def test_arrows_extension_types_are_refused(tmp_path: Path) -> None:
    class Tagged(pl.BaseExtension):
        def __init__(self) -> None:
            super().__init__("test.tagged", pl.String())

    folder = place(tmp_path)
    tagged = pl.Series("u", ["a"]).ext.to(Tagged())
    write(folder / "a.parquet", pl.DataFrame([tagged, pl.Series("y", [1])]))
    with pytest.raises(InputError, match=r"(?s)'u' has a type that no field can use.*a\.parquet.*test\.tagged.*string"):
        rows(folder)


@pytest.mark.parametrize("name", ["a.libsvm", "a.svm.gz", "a.txt"])
def test_libsvm(tmp_path: Path, name: str) -> None:
    schema = LIBSVM.replace("\n", '\n[files]\nformat = "libsvm"\n', 1) if name == "a.txt" else LIBSVM
    text = "1 3:1 70:1.0\n-1\n1 \t5:1 \n\n"
    folder = place(tmp_path, schema)
    write(folder / name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    found = rows(folder)
    assert found["label"].to_list() == ["1", "-1", "1"]
    assert found["features"].to_list() == [["3", "70"], [], ["5"]]


def test_libsvm_is_encoded(tmp_path: Path) -> None:
    folder = place(tmp_path, LIBSVM)
    write(folder / "a.libsvm", "".join(f"{'1' if i % 3 else '-1'} {i % 7}:1 {10 + i % 2}:1\n" for i in range(300)))
    encoded = encode(open_source(str(folder)), tmp_path / "out", seed=0)
    assert len(encoded.vocabularies["features"].values) == 9
    assert 0.5 < encoded.rows["train"].label.mean() < 0.8


def test_libffm(tmp_path: Path) -> None:
    fields = "".join(f'[[field]]\nname = "field_{n}"\nkind = "multi-valued"\n' for n in (0, 2))
    folder = place(tmp_path, 'label = "label"\n' + fields)
    write(folder / "a.ffm", "1 0:3:1 1:9:1 2:4:1 2:5:1\n0 0:7:1\n")
    found = rows(folder)
    assert found["field_0"].to_list() == [["3"], ["7"]]
    assert found["field_2"].to_list() == [["4", "5"], []]


def test_a_field_that_no_line_has(tmp_path: Path) -> None:
    fields = "".join(f'[[field]]\nname = "field_{n}"\nkind = "multi-valued"\n' for n in (0, 22))
    folder = place(tmp_path, 'label = "label"\n' + fields)
    write(folder / "a.ffm", "1 0:3:1\n")
    write(folder / "b.ffm", "1 2:3:1\n")
    with pytest.raises(InputError, match=r"no line has.*\n(.*\n)?  found: field_22"):
        rows(folder)


@pytest.mark.parametrize(
    ("line", "found"),
    [("1 3:0.5", "'3:0.5'"), ("1 qid:4 3:1", "'qid:4'"), ("1 3:1 # x", "'#'"), ("3:1 4:1", "'3:1'"), ("", "''")],
)
def test_libsvm_refuses(tmp_path: Path, line: str, found: str) -> None:
    folder = place(tmp_path, LIBSVM)
    write(folder / "a.libsvm", f"1 2:1\n{line}\n1 2:1\n")
    with pytest.raises(InputError, match=rf"a\.libsvm, row 2\n  found: {found}"):
        rows(folder)


def test_libffm_refuses_a_number(tmp_path: Path) -> None:
    folder = place(tmp_path, 'label = "label"\n[[field]]\nname = "field_0"\nkind = "multi-valued"\n')
    write(folder / "a.ffm", "1 0:3:1\n0 1:3:2.5\n")
    with pytest.raises(InputError, match=r"a\.ffm, row 2\n  found: '1:3:2\.5'"):
        rows(folder)
