"""Which split a row belongs to, by time, by a column, by its file."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_places import SCHEMA, place, write

from amtl_export.data.catalog import open_source
from amtl_export.data.rows import read_rows
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError


def schema(split: str) -> str:
    return SCHEMA.replace("[[field]]", f"[split]\n{split}\n[[field]]", 1)


def splits(folder: Path) -> list[tuple[str, int]]:
    chunks = [chunk.fields for chunk in read_rows(open_source(str(folder)), seed=0)]
    return pl.concat(chunks).select("u", "__split").rows()


def by_time(tmp_path: Path, values: list[Any] | pl.Series, valid: str, test: str, form: str = "parquet") -> list[int]:
    folder = place(tmp_path, schema(f'rule = "time"\ncolumn = "t"\nvalid_from = {valid}\ntest_from = {test}'))
    frame = pl.DataFrame({"u": ["a"] * len(values), "y": [1] * len(values), "t": values})
    write(folder / f"a.{form}", frame if form == "parquet" else frame.write_csv())
    return [index for _, index in splits(folder)]


DAYS = [date(2024, 4, 30), date(2024, 5, 1), date(2024, 5, 2)]
TIMES = [datetime(2024, 4, 30, 23, 59), datetime(2024, 5, 1), datetime(2024, 5, 2, 1)]


@pytest.mark.parametrize(
    "values",
    [
        DAYS,
        TIMES,
        pl.Series(TIMES).cast(pl.Datetime("ns")),
        pl.Series(TIMES).cast(pl.Datetime("ms")).dt.replace_time_zone("Asia/Tokyo"),
        [day.isoformat() for day in DAYS],
        [time.isoformat() for time in TIMES],
        [f"{time}.123456789" for time in TIMES],
        ["2024-04-30T23:59Z", "2024-05-01 00:00+09:00", "2024-05-02"],
    ],
)
@pytest.mark.parametrize("quote", ['"', ""])
def test_dates_of_every_kind(tmp_path: Path, values: list[Any] | pl.Series, quote: str) -> None:
    """Without an offset, what the data's own clock shows."""
    assert by_time(tmp_path, values, f"{quote}2024-05-01{quote}", f"{quote}2024-05-02{quote}") == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [
        ["2024-04-30T23:59Z", "2024-05-01T09:00+09:00", "2024-05-02T01:00:00-0500"],
        pl.Series([t.replace(tzinfo=UTC) for t in TIMES]).dt.convert_time_zone("Asia/Tokyo"),
    ],
)
def test_instants(tmp_path: Path, values: list[Any] | pl.Series) -> None:
    assert by_time(tmp_path, values, "2024-05-01T00:00:00Z", '"2024-05-02T01:00:00+01:00"') == [0, 1, 2]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("values", "valid", "test"),
    [
        ([9, 10, 100], "10", "100"),
        ([9.5, 10.0, 1e10], "10", "100"),
        ([2**62 - 1, 2**62, 2**62 + 1], f"{2**62}", f"{2**62 + 1}"),
    ],
)
def test_numbers(tmp_path: Path, values: list[Any], valid: str, test: str, form: str) -> None:
    assert by_time(tmp_path, values, valid, test, form) == [0, 1, 2]


def test_dates_as_texts_of_csv(tmp_path: Path) -> None:
    assert by_time(tmp_path, DAYS, "2024-05-01", "2024-05-02", "csv") == [0, 1, 2]


def test_other_texts_compare_as_texts(tmp_path: Path) -> None:
    assert by_time(tmp_path, ["w01", "w02", "w10"], '"w02"', '"w03"') == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "valid", "test", "says"),
    [
        (["2024-05-01", "2024-13-01"], "2024-05-01", "2024-05-02", "row 2, column 't'\n  found: '2024-13-01'"),
        (["2024-05-01", "1.5.2024"], "2024-05-01", "2024-05-02", "row 2, column 't'\n  found: '1.5.2024'"),
        (["2024-05-01", "2024-05-01"], "2024-05-01T00:00:00Z", "2024-05-02T00:00:00Z", "row 1(.*\n)+.*offset"),
        (["2024-05-01", None], "2024-05-01", "2024-05-02", "row 2, column 't'\n  found: None(.*\n)+  fix: .*filter"),
        (["7", "seven"], "5", "6", "row 2, column 't'\n  found: 'seven'"),
        (DAYS, "5", "6", "do not compare(.*\n)+  found: .*Date"),
        ([1, 2], "2024-05-01", "2024-05-02", "do not compare(.*\n)+  found: .*Int64\n  allowed: numbers"),
        (TIMES, "2024-05-01T00:00:00Z", "2024-05-02T00:00:00Z", "do not compare(.*\n)+.*without a zone"),
        (DAYS, '"w1"', '"w2"', "do not compare"),
        ([1.0, float("nan")], "5", "6", "row 2, column 't'\n  found: nan"),
    ],
)
def test_a_time_that_does_not_fit(tmp_path: Path, values: list[Any], valid: str, test: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        by_time(tmp_path, values, valid, test)


@pytest.mark.parametrize(
    ("valid", "test", "says"),
    [
        ("2024-05-02", "2024-05-01", "must come before"),
        ("2024-05-02", '"later"', "both be dates"),
        ("2024-05-01", "2024-05-02T00:00:00Z", "both have an offset"),
        ("2024-05-01", "7", "both be texts or both be numbers"),
    ],
)
def test_times_that_contradict(tmp_path: Path, valid: str, test: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        by_time(tmp_path, DAYS, valid, test)


@pytest.mark.parametrize(
    "split",
    [
        'rule = "time"\ncolumn = "t"\nvalid_from = 2024-05-01\ntest_from = 2024-05-02T10:00:00',
        f'rule = "time"\ncolumn = "t"\nvalid_from = {2**62}\ntest_from = {2**62 + 1}',
        'rule = "column"\ncolumn = "t"\ntrain = 0\nvalid = true\ntest = "x"',
        'rule = "files"\ntrain = ["a", "b"]\nvalid = "c"\ntest = "d"',
    ],
)
def test_schemas_are_the_same_as_json(tmp_path: Path, split: str) -> None:
    place(tmp_path, schema(split))
    read = Schema.from_toml(tmp_path / "data" / "schema.toml")
    assert Schema.from_values(read.to_json(), "json") == read


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0, 1, 2], "train = 0\nvalid = 1\ntest = 2"),
        ([0.0, 1.0, 2.0], "train = 0\nvalid = 1\ntest = 2"),
        ([True, False], "train = true\nvalid = false"),
        (pl.Series(["a", "b", "c"], dtype=pl.Categorical()), 'train = "a"\nvalid = "b"\ntest = "c"'),
        (["train", "valid", "test"], ""),
    ],
)
def test_a_column_of_any_type(tmp_path: Path, values: list[Any] | pl.Series, names: str) -> None:
    folder = place(tmp_path, schema(f'rule = "column"\ncolumn = "t"\n{names}'))
    write(folder / "a.parquet", pl.DataFrame({"u": ["a"] * len(values), "y": [1] * len(values), "t": values}))
    assert [index for _, index in splits(folder)] == list(range(len(values)))


@pytest.mark.parametrize("values", [[["a"], ["b"]], [timedelta(1), timedelta(2)], [{"a": 1}, {"a": 2}]], ids=str)
@pytest.mark.parametrize("asks", ['[split]\nrule = "column"\ncolumn = "t"\n', 'group = "t"\n'])
def test_a_column_whose_rows_are_no_single_values(tmp_path: Path, values: list[Any], asks: str) -> None:
    folder = place(tmp_path, f'label = "y"\n{asks}[[field]]\nname = "u"\nkind = "categorical"\n')
    write(folder / "a.parquet", pl.DataFrame({"u": ["a", "b"], "y": [1, 0], "t": values}))
    with pytest.raises(InputError, match="column 't'"):
        splits(folder)


def test_a_column_with_one_value_for_two(tmp_path: Path) -> None:
    folder = place(tmp_path, schema('rule = "column"\ncolumn = "t"\ntrain = "a"\nvalid = "a"'))
    with pytest.raises(InputError, match="three different values"):
        open_source(str(folder))


FILES = 'rule = "files"\ntrain = ["day=1/*.csv.gz", "day=2/*"]\nvalid = "day=3/**"\ntest = "a_test/*.csv.gz"'


def test_files_are_read_split_by_split(tmp_path: Path) -> None:
    folder = place(tmp_path, schema(FILES))
    for path in ("day=3/deep/x", "day=2/y", "day=1/z", "a_test/w"):
        write(folder / f"{path}.csv.gz", gzip.compress(f"u,y\n{path[-1]},1\n".encode()))
    assert splits(folder) == [("z", 0), ("y", 0), ("x", 1), ("w", 2)]


@pytest.mark.parametrize(
    ("more", "valid", "says"),
    [
        ("day=9/b.csv", "v/*", r"belongs to no split\n  where: day=9/b\.csv"),
        ("t/b.csv", "[tv]/*", r"belongs to two splits\n  where: t/a\.csv"),
        ("t/b.csv", "[z-a]", "a pattern cannot be read"),
    ],
)
def test_a_file_of_no_split_or_two(tmp_path: Path, more: str, valid: str, says: str) -> None:
    split = f'rule = "files"\ntrain = "t/*"\nvalid = "{valid}"\ntest = "z/*"'
    folder = place(tmp_path, schema(split))
    for name in ("t/a.csv", "v/a.csv", "z/a.csv", more):
        write(folder / name, "u,y\na,1\n")
    with pytest.raises(InputError, match=says):
        open_source(str(folder))


def test_a_time_that_a_folder_says(tmp_path: Path) -> None:
    folder = place(tmp_path, schema('rule = "time"\ncolumn = "day"\nvalid_from = 2024-05-02\ntest_from = 2024-05-03'))
    for index in range(3):
        day = date(2024, 5, 1) + timedelta(index)
        write(folder / f"day={day}" / "a.parquet", pl.DataFrame({"u": [f"u{index}"], "y": [1]}))
    assert splits(folder) == [("u0", 0), ("u1", 1), ("u2", 2)]
