"""`score`: every row of every file, in order, with the scores that PyTorch gives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import amtl_export.data.stream as stream
from amtl_export import ExportConfig, ScoreConfig, export, freeze, load, score, train
from amtl_export.data.rows import read_rows
from amtl_export.data.source import folder_source
from amtl_export.errors import InputError
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.run import Run

TOML = """
label = { click = "act >= 1", buy = "act = 2" }
filter = "uid <> 3"
group = "uid"
[split]
rule = "column"
column = "part"
[files]
missing = ["n/a"]
[[join]]
file = "side/cities.csv"
key = "city"
columns = ["land"]
[[field]]
name = "uid"
kind = "categorical"
type = "int64"
[[field]]
name = "city"
kind = "categorical"
unknown = "Oslo"
[[field]]
name = "land"
kind = "categorical"
[[field]]
name = "tags"
kind = "multi-valued"
max_length = 3
[[field]]
name = "hour"
column = "at"
kind = "categorical"
part = "hour"
[[field]]
name = "price"
kind = "numeric"
transform = "log1p"
"""
Train = Callable[..., TrainConfig]


def write(folder: Path, files: int = 3, rows: int = 700) -> Path:
    rng = np.random.default_rng(0)
    cities = ["Oslo", "Rome", " New  York", "n/a", ""]
    (folder / "side").mkdir(parents=True)
    (folder / "side" / "cities.csv").write_text("city,land\nOslo,NO\nRome,IT\n")
    for number in range(files):
        frame = pl.DataFrame(
            {
                "uid": rng.integers(0, 30, rows),
                "city": rng.choice(cities, rows),
                "tags": ["|".join(rng.choice(["a", "b ", "c", "n/a"], k)) for k in rng.integers(0, 5, rows)],
                "at": [f"2024-05-01T{h:02}:10:00" for h in rng.integers(0, 24, rows)],
                "price": rng.choice(["1.5", "", "1e3", " 2 "], rows),
                "act": rng.integers(0, 3, rows),
                "part": rng.choice(["train", "valid", "test"], rows),
                "note": [f"r{number}-{i}" for i in range(rows)],
            }
        )
        frame.write_csv(folder / f"part-{number}.csv")
    (folder / "schema.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("score") / "data")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_train: Train) -> Run:
    return train(tiny_train(data=str(data), epochs=1), tmp_path_factory.mktemp("score") / "run")


@pytest.fixture(scope="module")
def bundle(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(freeze(trained), tmp_path_factory.mktemp("score") / "bundle", ExportConfig("ragged")).path


def unlabelled(data: Path, folder: Path) -> Path:
    """The same rows without labels, parts and schema: what there is to score."""
    (folder / "side").mkdir(parents=True)
    (folder / "side" / "cities.csv").write_bytes((data / "side" / "cities.csv").read_bytes())
    for file in sorted(data.glob("*.csv")):
        pl.read_csv(file, infer_schema=False).drop("act", "part").write_csv(folder / file.name)
    return folder


def test_every_row_has_the_score_of_pytorch(data: Path, trained: Run, bundle: Path, tmp_path: Path) -> None:
    rows = unlabelled(data, tmp_path / "rows")
    report = score(bundle, rows, tmp_path / "scores.parquet", ScoreConfig(keep=("note", "uid"), batch=100))
    found = pl.read_parquet(tmp_path / "scores.parquet")
    assert (report.rows, report.files, report.resumed) == (2100, 3, 0)
    outputs = ["logit_click", "probability_click", "logit_buy", "probability_buy"]
    assert found.columns == ["file", "row", "note", "uid", *outputs]
    assert found["note"].to_list() == [f"r{n}-{i}" for n in range(3) for i in range(700)]
    assert found["file"].to_list() == [f"part-{n}.csv" for n in range(3) for _ in range(700)]
    assert found["row"].to_list() == list(range(700)) * 3
    assert not (tmp_path / "scores.parquet.partial").exists()
    # Of the rows that the filter leaves, those of the test split stand in the run, in the same order.
    everything = pl.concat([pl.read_csv(file, infer_schema=False) for file in sorted(data.glob("*.csv"))])
    test = (everything["part"] == "test") & (everything["uid"] != "3")
    expected = predict(trained.model, trained.rows("test"))
    scores = found.filter(test).select("logit_click", "logit_buy").to_numpy()
    assert test.sum() == len(expected) > 500
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_scores_are_those_of_load(data: Path, trained: Run, bundle: Path, tmp_path: Path) -> None:
    """To the last bit, whatever the batches and threads, chunks and format."""
    score(bundle, unlabelled(data, tmp_path / "rows"), tmp_path / "one.parquet", ScoreConfig(batch=7, threads=3))
    one = pl.read_parquet(tmp_path / "one.parquet")
    folder = tmp_path / "parquet"
    (folder / "side").mkdir(parents=True)
    (folder / "side" / "cities.csv").write_bytes((data / "side" / "cities.csv").read_bytes())
    for file in sorted(data.glob("*.csv")):
        frame = pl.read_csv(file, infer_schema=False).with_columns(pl.col("uid").cast(pl.Int32))
        frame.write_parquet(folder / f"{file.stem}.parquet")
    score(bundle, folder, tmp_path / "two.parquet", ScoreConfig(outputs=("probability_buy",), threads=1))
    two = pl.read_parquet(tmp_path / "two.parquet")
    assert two.columns == ["file", "row", "probability_buy"]
    assert two["probability_buy"].equals(one["probability_buy"])
    assert len(load(bundle).outputs) == 4


def test_chunks_make_no_difference(data: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unlabelled(data, tmp_path / "rows")
    score(bundle, rows, tmp_path / "one.parquet")
    monkeypatch.setattr(stream, "CHUNK_ROWS", 64)
    score(bundle, rows / "part-1.csv", tmp_path / "two.parquet")
    one = pl.read_parquet(tmp_path / "one.parquet").filter(pl.col("file") == "part-1.csv")
    assert pl.read_parquet(tmp_path / "two.parquet").equals(one)


def test_an_interrupted_run_goes_on_with_the_next_file(data: Path, bundle: Path, tmp_path: Path) -> None:
    rows = unlabelled(data, tmp_path / "rows")
    whole = tmp_path / "whole.parquet"
    score(bundle, rows, whole)
    third = rows / "part-2.csv"
    text = third.read_text()
    third.write_text(text.replace("2024-05-01T", "never", 1))
    out = tmp_path / "scores.parquet"
    with pytest.raises(InputError, match=r"part-2\.csv"):
        score(bundle, rows, out)
    assert not out.exists()
    with pytest.raises(InputError, match="unfinished work of other settings"):
        score(bundle, rows, out, ScoreConfig(keep=("note",)))
    third.write_text(text)
    first = rows / "part-0.csv"
    first.write_text(first.read_text())  # another file now, though it says the same
    report = score(bundle, rows, out)
    assert report.resumed == 1
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))


def test_unfinished_work_of_other_settings_can_be_discarded(data: Path, bundle: Path, tmp_path: Path) -> None:
    rows, out = unlabelled(data, tmp_path / "rows"), tmp_path / "scores.parquet"
    work = tmp_path / "scores.parquet.partial"
    (work / "000000").mkdir(parents=True)
    with pytest.raises(InputError, match=r"(?s)unfinished work.*no plan"):
        score(bundle, rows, out, overwrite=True)
    (work / "score.json").write_text('{"bundle": "another", "files": []}')
    with pytest.raises(InputError, match=r"(?s)unfinished work.*bundle"):
        score(bundle, rows, out)
    assert score(bundle, rows, out, overwrite=True).resumed == 0
    assert not work.exists()


def test_a_killed_run_loses_and_doubles_nothing(data: Path, bundle: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    unlabelled(data, rows)
    for number in range(3, 40):
        (rows / f"part-{number:02}.csv").write_bytes((rows / "part-0.csv").read_bytes())
    whole, out = tmp_path / "whole.parquet", tmp_path / "scores.parquet"
    score(bundle, rows, whole)
    words = [sys.executable, "-m", "amtl_export", "score", str(bundle), "--data", str(rows), "--out", str(out), "-q"]
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(words)
        parts = out.with_name(out.name + ".partial")
        wanted = len(list(parts.glob("[0-9]" * 6))) + 3
        while process.poll() is None and len(list(parts.glob("[0-9]" * 6))) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not out.exists() or process.returncode == 0
    report = score(bundle, rows, out) if not out.exists() else None
    assert kills
    assert report is None or report.resumed >= 3
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))
    assert not parts.exists()


def test_what_is_there_is_not_replaced(data: Path, bundle: Path, tmp_path: Path) -> None:
    rows = unlabelled(data, tmp_path / "rows") / "part-0.csv"
    out = tmp_path / "scores.parquet"
    score(bundle, rows, out)
    with pytest.raises(InputError, match="the output file exists"):
        score(bundle, rows, out)
    score(bundle, rows, out, ScoreConfig(outputs=("logit_buy",)), overwrite=True)
    assert pl.read_parquet(out).columns == ["file", "row", "logit_buy"]
    pl.DataFrame({"a": [1]}).write_parquet(out)
    with pytest.raises(InputError, match="not made by"):
        score(bundle, rows, out, overwrite=True)
    assert pl.read_parquet(out).columns == ["a"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ScoreConfig(outputs=("logit",)), "unknown outputs"),
        (ScoreConfig(keep=("row",)), "called as one of the result"),
        (ScoreConfig(keep=("nothing",)), "nothing"),
    ],
)
def test_what_cannot_be_written_is_refused(
    data: Path, bundle: Path, tmp_path: Path, config: ScoreConfig, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        score(bundle, unlabelled(data, tmp_path / "rows"), tmp_path / "scores.parquet", config)
    assert not (tmp_path / "scores.parquet").exists()


def test_bundles_that_answer_no_rows_are_refused(trained: Run, data: Path, tmp_path: Path) -> None:
    bundle = export(freeze(trained), tmp_path / "bundle", ExportConfig("dense", request_fields=("city",)))
    with pytest.raises(InputError, match="each on its own"):
        score(bundle.path, data, tmp_path / "scores.parquet")


def test_a_bad_value_names_file_and_row(data: Path, bundle: Path, tmp_path: Path) -> None:
    rows = unlabelled(data, tmp_path / "rows")
    file = rows / "part-1.csv"
    lines = file.read_text().splitlines()
    lines[5] = "x" + lines[5]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"part-1\.csv, row 5") as raised:
        score(bundle, rows, tmp_path / "scores.parquet")
    assert "field uid" in str(raised.value)


def test_the_schema_of_training_still_reads_the_labelled_files(data: Path) -> None:
    """What is scored has fewer columns; what is trained on needs them all."""
    source = folder_source(data)
    assert sum(len(chunk.fields) for chunk in read_rows(source, 0)) > 1500
