"""Which files of a folder are data, and how they are read."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from data_places import SCHEMA, place, rows, write

from amtl_export.data.catalog import open_source
from amtl_export.data.folder import matches
from amtl_export.errors import InputError

LABEL = 'label = "y"\n'
KEYED = SCHEMA + '[[field]]\nname = "day"\nkind = "categorical"\n'


def with_files(text: str) -> str:
    return f"{LABEL}[files]\n{text}\n" + SCHEMA.removeprefix(LABEL)


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv.gz", ".txt.gz", ".csv.zst", ".tsv.zst"])
@pytest.mark.parametrize("pattern", [True, False])
def test_packed_files_are_found_and_read(tmp_path: Path, suffix: str, pattern: bool) -> None:
    folder = place(tmp_path, with_files(f'pattern = "*{suffix}"') if pattern else SCHEMA)
    text = "u,y\nä,1\n,0\n" if "csv" in suffix else "u\ty\nä\t1\n\t0\n"
    packed = gzip.compress(text.encode())
    if suffix.endswith("zst"):
        try:
            packed = subprocess.run(["zstd", "-c"], input=text.encode(), capture_output=True, check=True).stdout
        except FileNotFoundError:
            pytest.skip("zstd is not there")
    write(folder / f"a{suffix}", packed)
    assert rows(folder)["u"].to_list() == ["ä", None]


def test_a_packed_file_of_another_encoding(tmp_path: Path) -> None:
    folder = place(tmp_path, with_files('encoding = "latin-1"'))
    write(folder / "a.csv.gz", gzip.compress("u,y\ncafé,1\n".encode("latin-1")))
    assert rows(folder)["u"].to_list() == ["café"]


@pytest.mark.parametrize("encoding", ["utf8", "latin-1"])
def test_a_packed_file_that_is_damaged(tmp_path: Path, encoding: str) -> None:
    folder = place(tmp_path, with_files(f'encoding = "{encoding}"'))
    packed = bytearray(gzip.compress(b"u,y\n" + b"a,1\n" * 5000, compresslevel=0))
    packed[9000:9001] = b"z"
    write(folder / "a.csv.gz", bytes(packed))
    with pytest.raises(InputError, match=r"damaged or cut off\n.*a\.csv\.gz"):
        rows(folder)


@pytest.mark.parametrize("encoding", ["utf8", "latin-1"])
def test_a_packed_file_of_nothing(tmp_path: Path, encoding: str) -> None:
    folder = place(tmp_path, with_files(f'encoding = "{encoding}"'), **{"a.csv.gz": gzip.compress(b"")})
    with pytest.raises(InputError, match=r"the file is empty\n.*a\.csv\.gz"):
        rows(folder)


def test_what_tells_of_the_data_is_no_data(tmp_path: Path) -> None:
    folder = place(tmp_path)
    for name in ("README.txt", "readme.csv", "LICENSE.txt", "CHANGELOG.tsv", "_SUCCESS", "_x.csv", ".b.csv", "._a.csv"):
        write(folder / name, "no table")
    write(folder / "a.csv", "u,y\na,1\n")
    write(folder / "readmeter.csv", "u,y\nb,1\n")
    assert rows(folder)["u"].to_list() == ["a", "b"]
    write(folder / "schema.toml", with_files('pattern = "*"\nformat = "csv"'))
    assert rows(folder)["u"].to_list() == ["a", "b"]
    write(folder / "_x.csv", "u,y\nc,1\n")
    write(folder / "schema.toml", with_files('pattern = "_*.csv"'))
    assert rows(folder)["u"].to_list() == ["c"]


def test_a_file_packed_and_unpacked_is_not_read_twice(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.csv", "u,y\na,1\n")
    write(folder / "a.csv.gz", gzip.compress(b"u,y\na,1\n"))
    with pytest.raises(InputError, match=r"a\.csv and a\.csv\.gz"):
        open_source(str(folder))


def test_two_formats_need_a_word(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.csv", "u,y\na,1\n")
    write(folder / "a.parquet", pl.DataFrame({"u": ["b"], "y": [1]}))
    with pytest.raises(InputError, match=r"several formats\n.*\n  found: csv \(a\.csv\), parquet \(a\.parquet\)"):
        open_source(str(folder))
    write(folder / "schema.toml", with_files('format = "parquet"'))
    assert rows(folder)["u"].to_list() == ["b"]
    write(folder / "schema.toml", with_files('pattern = "*.csv"'))
    assert rows(folder)["u"].to_list() == ["a"]


@pytest.mark.parametrize("name", ["a.csv.bz2", "a.xz"])
def test_other_packings_are_named(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path, with_files('pattern = "a.*"'))
    write(folder / name, b"BZh9")
    with pytest.raises(InputError, match=r"packed like this"):
        open_source(str(folder))


def test_files_in_sub_folders_are_pointed_at(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "deep" / "a.csv", "u,y\na,1\n")
    with pytest.raises(InputError, match=r"1 in sub-folders, such as deep/a\.csv(\n.*)+\*\*/\*\.csv"):
        open_source(str(folder))
    write(folder / "schema.toml", with_files('pattern = "**/*.csv"'))
    assert rows(folder)["__file"].to_list() == ["deep/a.csv"]


def test_a_name_with_the_signs_of_a_pattern(tmp_path: Path) -> None:
    folder = place(tmp_path / "[1]")
    for name in ("a*.csv", "ab.csv"):
        write(folder / name, f"u,y\n{name},1\n")
    assert rows(folder)["u"].to_list() == ["a*.csv", "ab.csv"]


@pytest.mark.parametrize("pattern", [True, False])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_folders_that_are_keys(tmp_path: Path, form: str, pattern: bool) -> None:
    schema = KEYED.replace(LABEL, f'{LABEL}[files]\npattern = "**/*.{form}"\n') if pattern else KEYED
    folder = place(tmp_path, schema + '[[field]]\nname = "city"\nkind = "categorical"\n')
    for index, path in enumerate(("day=2/city=S%C3%A3o", "day=1/city=b", "day=__HIVE_DEFAULT_PARTITION__/city=c")):
        frame = pl.DataFrame({"u": [f"u{index}"], "y": [1]})
        write(folder / path / f"part.{form}", frame if form == "parquet" else frame.write_csv())
    write(folder / "day=1" / "_temporary" / f"part.{form}", "no table")
    write(folder / "day=1" / "_SUCCESS", "")
    found = rows(folder)
    assert found["u"].to_list() == ["u1", "u0", "u2"]
    assert found["day"].to_list() == ["1", "2", None]
    assert found["city"].to_list() == ["b", "São", "c"]
    assert found["__file"][1] == f"day=2/city=S%C3%A3o/part.{form}"


def test_the_column_of_the_file_stays(tmp_path: Path) -> None:
    folder = place(tmp_path, KEYED)
    write(folder / "day=1" / "a.csv", "u,y,day\na,1,7\n")
    assert rows(folder)["day"].to_list() == ["7"]


def test_separators_of_several_characters(tmp_path: Path) -> None:
    folder = place(tmp_path, with_files('separator = "::"'))
    write(folder / "a.csv", "\ufeff\r\nu::y\r\na::1\r\n\x01::0\r\n\r\n")
    assert rows(folder)["u"].to_list() == ["a", "\x01"]
    write(folder / "a.csv", "u::y\na::1\n\nb::0\n")
    with pytest.raises(InputError, match=r"empty line(.*\n)+.*row 2"):
        rows(folder)
    write(folder / "a.csv", "u::y\na::1\nb\n")
    with pytest.raises(InputError, match=r"a\.csv, row 2\n  found: 'b'\n  allowed: 2 columns"):
        rows(folder)


def test_separators_of_several_characters_without_a_header(tmp_path: Path) -> None:
    folder = place(tmp_path, with_files('separator = "::"\nheader = false\ncolumns = ["u", "y"]'))
    write(folder / "a.csv", "\ufeffa::1\nb::0\n")
    assert rows(folder)["u"].to_list() == ["a", "b"]


def test_a_column_named_twice(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.csv", "u,y,u\na,1,b\n")
    with pytest.raises(InputError, match=r"names a column twice\n.*\n  found: \['u'\]"):
        rows(folder)


def test_lines_that_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    folder = place(tmp_path)
    (folder / "a.csv").write_bytes(b"u,y\ra,1\rb,0\r")
    with pytest.raises(InputError, match=r"(?s)carriage return alone\n  where: .*a\.csv\n  fix: .*tr "):
        rows(folder)


def test_texts_that_mean_missing_stay_texts(tmp_path: Path) -> None:
    """Fields decide about them, alike for every format."""
    folder = place(tmp_path, with_files('missing = ["n/a"]'))
    write(folder / "a.csv", "u,y\nn/a,1\n,0\n")
    assert rows(folder)["u"].to_list() == ["n/a", None]


def test_a_known_name_is_the_named_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path).rename(tmp_path / "ml-1m")
    write(tmp_path / "ml-1m" / "a.csv", "u,y\na,1\n")
    monkeypatch.chdir(tmp_path)
    assert open_source("./ml-1m").path == Path("ml-1m")
    with pytest.raises(InputError, match=r"needs path=FOLDER\n.*data='\./ml-1m'"):
        open_source("ml-1m")
    with pytest.raises(InputError, match="published file is missing"):
        open_source("ml-1m", "ml-1m")


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a.csv", "*.csv", True),
        ("d/a.csv", "*.csv", False),
        ("d/a.csv", "**/*.csv", True),
        ("a.csv", "**/*.csv", True),
        ("d/e/a.csv", "d/**", True),
        ("day=1/a.csv", "day=[12]/?.csv", True),
        ("day=3/a.csv", "day=[!3]/?.csv", False),
        ("a+.csv", "a+.csv", True),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


def test_a_data_file_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    folder = place(tmp_path, **{"a.csv": "u,y\na,1\n"})
    (folder / "notes").symlink_to("nowhere")
    assert rows(folder)["u"].to_list() == ["a"]
    (folder / "b.csv").symlink_to("nowhere.csv")
    with pytest.raises(InputError, match=r"no such file\n.*b\.csv"):
        rows(folder)
    (folder / "b.csv").unlink()
    os.mkfifo(folder / "b.csv")
    with pytest.raises(InputError, match=r"no such file\n.*b\.csv"):
        rows(folder)
    (folder / "b.csv").unlink()
    (folder / "b.csv").symlink_to("b.csv")
    with pytest.raises(InputError, match=r"(?s)b\.csv\n.*symbolic links"):
        rows(folder)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = place(tmp_path, **{"a.csv": "u,y\na,1\n"})
    (folder / "a.csv").rename(folder / os.fsdecode(b"\xff.csv"))
    with pytest.raises(InputError, match=r"not UTF-8\n.*udcff\.csv(?s:.*)rename it"):
        rows(folder)


def test_columns_beside_a_header_are_refused(tmp_path: Path) -> None:
    folder = place(tmp_path, with_files('columns = ["y", "u"]'), **{"a.csv": "u,y\na,1\n"})
    with pytest.raises(InputError, match="header = false"):
        rows(folder)


def test_what_is_no_utf8_says_which_key_reads_it(tmp_path: Path) -> None:
    folder = place(tmp_path)
    write(folder / "a.csv", "u,y\ncafé,1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r'(?s)a\.csv.*encoding = "latin-1"'):
        rows(folder)
