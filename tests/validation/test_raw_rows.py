"""validate starts from raw rows, and tells where a raw value has another id than training gave it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.data.raw_sample import SAMPLE, open_raw
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.raw_rows import check_hostile, check_source
from amtl_export.validation.validate import validate

SCHEMA = """
label = "act = 'buy'"
filter = "uid <> 3"
[split]
rule = "column"
column = "part"
[files]
missing = ["n/a"]
[[field]]
name = "uid"
kind = "categorical"
type = "int64"
missing = ["-1"]
min_count = 1
[[field]]
name = "city"
kind = "categorical"
min_count = 1
[[field]]
name = "uid_as_text"
column = "uid"
kind = "categorical"
trim = false
min_count = 1
[[field]]
name = "age"
column = "uid"
kind = "numeric"
missing = ["-1", "7.0"]
[[field]]
name = "tags"
kind = "multi-valued"
separator = "|"
max_length = 3
min_count = 1
[[field]]
name = "seen"
kind = "sequence"
of = "city"
separator = ";"
max_length = 2
[[field]]
name = "price"
kind = "numeric"
transform = "log1p"
"""


def make_data(folder: Path) -> str:
    """Texts with spaces, missing ones of several kinds, lists past max_length, one column used three times."""
    rng = np.random.default_rng(0)
    cities = ["New York", " New  York", "Rome ", "n/a", "", "Oslo", "São Paulo"]
    lines = ["uid,city,tags,seen,price,act,part"]
    for i in range(900):
        uid = rng.choice(["-1", "1", "2", "3", " 4 ", "5.0", "7", "n/a"])
        tags = "|".join(rng.choice([" a", "b ", "c", "", "n/a", "d e"], size=rng.integers(0, 6)))
        seen = ";".join(rng.choice(cities, size=rng.integers(0, 4)))
        part = "train" if i < 600 else "valid" if i < 750 else "test"
        price, act = rng.choice(["1.5", "", "1e3", " 2 ", "nan"]), rng.choice(["buy", "view"])
        lines.append(f"{uid},{rng.choice(cities)},{tags},{seen},{price},{act},{part}")
    folder.mkdir()
    (folder / "schema.toml").write_text(SCHEMA, encoding="utf-8")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def raw_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("raw")
    config = TrainConfig(data=make_data(folder / "data"), dim=4, epochs=1, hidden=(8,), batch_size=256)
    return train(config, folder / "run")


@pytest.mark.parametrize("request_fields", [(), ("city", "tags", "age")])
def test_every_raw_row_has_the_ids_of_training(raw_run: Run, tmp_path: Path, request_fields: tuple[str, ...]) -> None:
    config = ExportConfig(layout="dense", request_fields=request_fields)
    bundle = export(freeze(raw_run), tmp_path / "bundle", config)
    verdict = validate(bundle.path, raw_run)
    assert verdict.problems == []
    assert verdict.raw_rows_checked == verdict.raw_rows_equal
    assert (verdict.raw_rows_checked or 0) > len(raw_run.rows("test"))


def test_a_run_keeps_raw_rows(run: Run) -> None:
    kept = open_raw(run.path / "data")
    assert kept is not None
    frame, places = kept
    rows = run.rows("test")
    assert len(frame) == min(SAMPLE, len(rows))
    assert places.tolist() == sorted(set(places.tolist()))
    assert set(frame.columns) == {field.source_column for field in run.schema.fields}


def other_normalisation(bundle: Bundle, folder: Path, change: Callable[[list[dict[str, object]]], None]) -> Bundle:
    spoilt = Path(shutil.copytree(bundle.path, folder / "spoilt"))
    values = json.loads((spoilt / "normalisation.json").read_text())
    change(values)
    (spoilt / "normalisation.json").write_text(json.dumps(values))
    return open_bundle(spoilt)


CHANGES: dict[str, tuple[Callable[[list[dict[str, object]]], None], str]] = {
    "a text more means missing": (
        lambda f: f[0].update(missing=["n/a", "-1", "2"]),
        r"uid: '2' is \d+ in training and 1 by",
    ),
    "spaces count": (lambda f: f[1].update(trim=False), r"city: ' New  York' is \d+ in training and 0 by"),
    "lists are shorter": (lambda f: f[4].update(max_length=2), r"tags: .* is \[.*\] in training and \[.*\] by"),
    "a number more means missing": (
        lambda f: f[6].update(missing=["n/a", "1.5"]),
        "price: '1.5' is 1.5 in training and None",
    ),
    "another column": (lambda f: f[1].update(column="seen"), "city: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bundle_that_reads_values_otherwise_fails(raw_run: Run, tmp_path: Path, name: str) -> None:
    change, says = CHANGES[name]
    bundle = other_normalisation(export(freeze(raw_run), tmp_path / "bundle"), tmp_path, change)
    verdict = validate(bundle.path, raw_run)
    told = "\n".join(verdict.problems)
    assert verdict.verdict == "fail"
    assert (verdict.raw_rows_equal or 0) < (verdict.raw_rows_checked or 0)
    assert re.search(f"raw value of field {says}", told), told


def test_hostile_values_of_every_layout(bundle: Bundle) -> None:
    found = check_hostile(bundle)
    assert found.problems == []
    assert found.rows == found.equal > 10


def test_a_run_without_raw_rows_is_said(run: Run, run_copy: Path, tmp_path: Path) -> None:
    (run_copy / "data" / "raw.parquet").unlink()
    bundle = export(freeze(run_copy), tmp_path / "bundle")
    verdict = validate(bundle.path, run_copy)
    assert verdict.problems == []
    assert verdict.raw_rows_checked is None
    assert any("keeps no raw rows" in note for note in verdict.notes)


def test_damaged_raw_rows_are_an_error(run_copy: Path, tmp_path: Path) -> None:
    bundle = export(freeze(run_copy), tmp_path / "bundle")
    file = run_copy / "data" / "raw.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert any("raw.parquet" in problem for problem in validate(bundle.path, run_copy).problems)


def test_raw_rows_that_are_none_are_an_error(run_copy: Path) -> None:
    file = run_copy / "data" / "raw.parquet"
    pl.read_parquet(file).clear().write_parquet(file)
    raw = freeze(run_copy).raw
    assert raw is not None
    with pytest.raises(InputError, match=r"raw\.parquet"):
        raw()


def test_rows_that_training_encoded_otherwise_are_told(frozen: FrozenModel, bundle: Bundle) -> None:
    assert frozen.raw is not None
    kept = frozen.raw()
    assert kept is not None
    frame, rows = kept
    found = check_source(bundle, frame.reverse(), rows)
    assert found.equal < found.rows
    assert any(line.startswith("user: ") and "in training" in line for line in found.problems)
    with pytest.raises(InputError, match="a value cannot be used"):
        check_source(bundle, frame.with_columns(user=pl.lit("no number")), rows)


@pytest.mark.parametrize("spoil", ["{}", "[]", '[{"field": "uid"}]', "[1]", None])
def test_a_damaged_normalisation_is_an_error(bundle: Bundle, tmp_path: Path, spoil: str | None) -> None:
    spoilt = Path(shutil.copytree(bundle.path, tmp_path / "spoilt"))
    if spoil is None:
        (spoilt / "normalisation.json").unlink()
        with pytest.raises(InputError, match=r"normalisation\.json"):
            open_bundle(spoilt)
        return
    (spoilt / "normalisation.json").write_text(spoil)
    with pytest.raises(InputError, match=r"normalisation\.json"):
        open_bundle(spoilt).normalisations()
