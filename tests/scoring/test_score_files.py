"""`score`: which files are read and how, and what unfinished work is worth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from amtl_export import ScoreConfig, export, freeze, score, train
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError
from amtl_export.scoring.inputs import files_to_score
from amtl_export.training.config import TrainConfig

TOML = """label = "y"
[files]
pattern = "**/*.csv"
[[field]]
name = "a"
kind = "categorical"
type = "int64"
[[field]]
name = "t"
kind = "multi-valued"
[[field]]
name = "x"
kind = "numeric"
"""
OUTPUTS = ["logit", "probability"]


def frame(rows: int = 300, start: int = 0) -> pl.DataFrame:
    numbers = range(start, start + rows)
    return pl.DataFrame(
        {
            "a": [i % 9 for i in numbers],
            "t": [f"u|v{i % 3}" for i in numbers],
            "x": [i / 2 for i in numbers],
            "y": [i % 2 for i in numbers],
            "k": list(numbers),
        },
        schema={"a": pl.Int64, "t": pl.String, "x": pl.Float64, "y": pl.Int64, "k": pl.Int64},
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "schema.toml").write_text(TOML)
    frame().write_csv(folder / "data" / "one.csv")
    frame(start=300).write_csv(folder / "data" / "deep" / "two.csv")
    run = train(tiny_train(data=str(folder / "data"), epochs=1, dim=4), folder / "run")
    return export(freeze(run), folder / "bundle").path


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three Parquet files, which the schema does not name."""
    folder = tmp_path / "lake"
    folder.mkdir()
    for number in range(3):
        frame(100, 100 * number).write_parquet(folder / f"{number}.parquet")
    return folder


def test_sub_folders_are_scored_as_they_were_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("one.csv", "deep/two.csv", "deep/three.csv"):
        frame(50).write_csv(tmp_path / "data" / name)
    frame(50).write_csv(tmp_path / "data" / "one.tsv", separator="\t")
    said: list[str] = []
    assert score(bundle, tmp_path / "data", tmp_path / "s.parquet", note=said.append).rows == 150
    files = pl.read_parquet(tmp_path / "s.parquet")["file"].unique(maintain_order=True).to_list()
    assert files == ["deep/three.csv", "deep/two.csv", "one.csv"]
    assert not [line for line in said if "by their suffix" in line]


#: [files] and [split] of the schema, the files that are there, those that are scored, whether by suffix
FOLDERS: dict[str, tuple[str, list[str], list[str], bool]] = {
    "a pattern": ('[files]\npattern = "part-*.csv"', ["old.csv", "part-1.csv"], ["part-1.csv"], False),
    "a format": ('[files]\nformat = "csv"', ["a.csv", "b.parquet"], ["a.csv"], False),
    "a pattern and a format": ('[files]\nformat = "csv"\npattern = "*.txt"', ["a.txt"], ["a.txt"], False),
    "files of splits": (
        '[split]\nrule = "files"\ntrain = ["z/*.csv"]\nvalid = ["b.csv"]\ntest = ["a.csv"]',
        ["a.csv", "b.csv", "new.csv", "z/c.csv"],
        ["a.csv", "b.csv", "new.csv", "z/c.csv"],
        False,
    ),
    "another format": ('[files]\nformat = "csv"\npattern = "*.csv"', ["a.parquet"], ["a.parquet"], True),
    "other names": ('[files]\npattern = "train-*.csv"', ["a.csv", "b.csv"], ["a.csv", "b.csv"], True),
    "other files than those of splits": (
        '[split]\nrule = "files"\ntrain = ["*.data"]\nvalid = ["v"]\ntest = ["t"]\n[files]\nformat = "csv"',
        ["a.tsv"],
        ["a.tsv"],
        True,
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_files_of_a_folder(case: str, tmp_path: Path) -> None:
    more, there, expected, by_suffix = FOLDERS[case]
    (tmp_path / "schema.toml").write_text(TOML.replace('[files]\npattern = "**/*.csv"', more))
    (tmp_path / "rows" / "z").mkdir(parents=True)
    for name in there:
        (tmp_path / "rows" / name).touch()
    said: list[str] = []
    found = files_to_score(tmp_path / "rows", Schema.from_toml(tmp_path / "schema.toml"), (), said.append)
    assert [file.name for file in found.files] == expected
    assert [f"{len(expected)} are read by their suffix" in line for line in said] == [True] * by_suffix


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.parquet", "parquet"), ("a.tsv.gz", "tsv"), ("a.txt", "csv"), ("a.txt.gz", "csv"), ("a.data", "csv")],
)
def test_the_format_of_one_file(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "schema.toml").write_text(TOML.replace("[files]", '[files]\nformat = "csv"'))
    (tmp_path / name).touch()
    found = files_to_score(tmp_path / name, Schema.from_toml(tmp_path / "schema.toml"), (), print)
    assert [file.format for file in found.files] == [expected]


def test_what_is_not_there_is_not_the_folder_around_it(bundle: Path, lake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        score(bundle, lake / "nothing", tmp_path / "s.parquet")
    with pytest.raises(InputError, match=r"no data files in the folder(?s:.)*\*\*/\*\.csv"):
        score(bundle, bundle / "samples", tmp_path / "s.parquet")


def test_scores_do_not_replace_what_they_are_of(bundle: Path, lake: Path) -> None:
    """Scores of scores, of a command that is given twice, are refused too."""
    out = lake / "s.parquet"
    score(bundle, lake / "0.parquet", out, ScoreConfig(keep=("a", "t", "x")))
    before = out.read_bytes()
    link = lake.parent / "link.parquet"
    link.symlink_to(out)
    for data, target in ((out, out), (lake, out), (lake, link)):
        with pytest.raises(InputError, match="one of those that are read"):
            score(bundle, data, target, overwrite=True)
    assert out.read_bytes() == before
    assert not list(lake.parent.glob("**/*.partial"))


@pytest.mark.parametrize(
    ("data", "out", "is_read"),
    [("lake", "s.parquet", True), ("lake", "deep/s.parquet", False), ("rows", "s.csv", True), ("rows", "s.pq", False)],
)
def test_scores_do_not_become_data(
    data: str, out: str, is_read: bool, bundle: Path, lake: Path, tmp_path: Path
) -> None:
    """Of a folder that is read by the bundle's pattern, and of one that is read by suffix."""
    place = {"lake": lake, "rows": tmp_path / "rows"}[data]
    if data == "rows":
        place.mkdir()
        frame(9).write_csv(place / "rows.csv")
    (place / out).parent.mkdir(exist_ok=True)
    before = sorted(place.rglob("*"))
    if is_read:
        with pytest.raises(InputError, match="the next call would read the output file as data"):
            score(bundle, place, place / out)
        assert sorted(place.rglob("*")) == before
        return
    for _ in range(2):
        report = score(bundle, place, place / out, overwrite=True)
        assert report.rows == (9 if data == "rows" else sum(len(pl.read_parquet(f)) for f in lake.glob("*.parquet")))


def test_unfinished_work_is_no_data(bundle: Path, tmp_path: Path) -> None:
    part = tmp_path / "s.parquet.partial" / "000000"
    part.mkdir(parents=True)
    frame(9).write_csv(part / "000000.csv")
    with pytest.raises(InputError, match="unfinished work is among the files that are read"):
        score(bundle, tmp_path, tmp_path / "s.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_without_a_row(suffix: str, bundle: Path, tmp_path: Path) -> None:
    data, full, out = tmp_path / f"none.{suffix}", tmp_path / f"one.{suffix}", tmp_path / "s.parquet"
    for rows, file in ((0, data), (1, full)):
        (frame(rows).write_csv if suffix == "csv" else frame(rows).write_parquet)(file)
    config = ScoreConfig(keep=("k",))
    assert score(bundle, data, out, config).rows == 0
    score(bundle, full, tmp_path / "full.parquet", config)
    assert pl.read_parquet_schema(out) == pl.read_parquet_schema(tmp_path / "full.parquet")
    assert not list(tmp_path.glob("*.partial"))


def test_kept_columns_of_two_types_are_refused_at_the_start(bundle: Path, lake: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "s.parquet", ScoreConfig(keep=("k",))
    last = frame(100, 200)
    last.with_columns(pl.col("k").cast(pl.Int32)).write_parquet(lake / "2.parquet")
    with pytest.raises(InputError, match="two files have column 'k' with different types"):
        score(bundle, lake, out, config)
    assert not list(tmp_path.glob("*.partial"))
    last.with_columns(pl.lit(None).alias("k")).write_parquet(lake / "2.parquet")
    score(bundle, lake, out, config)
    assert pl.read_parquet(out)["k"].to_list() == [*range(200), *[None] * 100]


def test_a_kept_column_may_be_of_a_type_that_no_field_has(bundle: Path, lake: Path, tmp_path: Path) -> None:
    for file in lake.iterdir():
        own = pl.read_parquet(file)
        own.with_columns(b=pl.lit(b"x"), s=pl.struct(n="k")).write_parquet(file)
    score(bundle, lake, tmp_path / "s.parquet", ScoreConfig(keep=("b", "s")))
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert found["b"].to_list() == [b"x"] * len(found)
    assert found.schema["s"] == pl.Struct({"n": pl.Int64})


def test_a_kept_column_that_is_missing_is_no_column_of_the_schema(bundle: Path, lake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks columns that are to be kept(?s:.)*also \['z'\]"):
        score(bundle, lake, tmp_path / "s.parquet", ScoreConfig(keep=("z",)))
    frame(100, 200).drop("k").write_parquet(lake / "2.parquet")  # the last file alone
    with pytest.raises(InputError, match=r"(?s)to be kept.*2\.parquet.*also \['k'\]"):
        score(bundle, lake, tmp_path / "s.parquet", ScoreConfig(keep=("k",)))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("config", [ScoreConfig(keep=("k", "k")), ScoreConfig(outputs=("logit", "logit"))])
def test_columns_that_are_named_twice(config: ScoreConfig, bundle: Path, lake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"named twice(?s:.)*found: (k|logit)"):
        score(bundle, lake, tmp_path / "s.parquet", config)
    assert not list(tmp_path.glob("*.partial"))


def truncate(part: Path) -> None:
    file = part / "000000.parquet"
    file.write_bytes(file.read_bytes()[:-9])


def test_two_do_not_work_on_one_result(bundle: Path, lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    refused: list[str] = []

    def meanwhile(said: str) -> None:
        if said.startswith("1.parquet:"):  # is done
            refused.append(str(other.submit(score, bundle, lake, out).exception()))

    with ThreadPoolExecutor(1) as other:
        assert score(bundle, lake, out, note=meanwhile).rows == 300
    assert [text.split("\n")[0] for text in refused] == ["another process is working on the output folder"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "s.parquet"]


def empty(part: Path) -> None:
    for path in part.iterdir():
        path.unlink()


def replace(part: Path) -> None:
    shutil.rmtree(part)
    part.touch()


#: name → what becomes of a part
DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": truncate,
    "another table": lambda part: pl.DataFrame({"b": [1]}).write_parquet(part / "000000.parquet"),
    "one file more": lambda part: (part / "more").touch(),
    "one file less": lambda part: (part / "000000.parquet").unlink(),
    "nothing left": empty,
    "no list": lambda part: (part / "chunks.json").unlink(),
    "another list": lambda part: (part / "chunks.json").write_text('{"000000.parquet": 7}'),
    "a file in its place": replace,
}


@pytest.fixture
def unfinished(bundle: Path, lake: Path, tmp_path: Path) -> Path:
    """Work of which the last of three files could not be scored; the file is whole again."""
    frame(100, 200).with_columns(x=float("inf")).write_parquet(lake / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet"):
        score(bundle, lake, tmp_path / "s.parquet")
    frame(100, 200).write_parquet(lake / "2.parquet")
    work = tmp_path / "s.parquet.partial"
    assert sorted(path.name for path in work.iterdir()) == ["000000", "000001", "score.json"]
    return work


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_part_is_scored_again(name: str, bundle: Path, lake: Path, unfinished: Path) -> None:
    DAMAGES[name](unfinished / "000000")
    out = unfinished.with_name("s.parquet")
    report = score(bundle, lake, out)
    assert (report.rows, report.resumed) == (300, 1)
    assert pl.read_parquet(out)["row"].to_list() == [*range(100)] * 3


@pytest.mark.parametrize("files", [None, 7, "whole"])
def test_a_damaged_plan_is_none(files: object, bundle: Path, lake: Path, unfinished: Path) -> None:
    plan = unfinished / "score.json"
    plan.write_text("[]" if files == "whole" else json.dumps(json.loads(plan.read_text()) | {"files": files}))
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"unfinished work(?s:.)*no plan(?s:.)*remove it yourself"):
            score(bundle, lake, unfinished.with_name("s.parquet"), overwrite=overwrite)
