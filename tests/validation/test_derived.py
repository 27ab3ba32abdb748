"""Fields whose values are made of the data's, from a folder of CSV to a server: one id in training and everywhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.derived_values import possible, raw_of
from amtl_export.bundle.encoder import Encoder
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.raw import encoded, raw_fields, refusing, values_of
from amtl_export.bundle.raw_bundle import write_raw_bundle
from amtl_export.bundle.samples import read_test_data
from amtl_export.data.catalog import open_source
from amtl_export.data.describe import describe
from amtl_export.data.normalise import Normalisation, normalisations, normalised
from amtl_export.data.times import PER_SECOND, RANGES, Part, Unit
from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.freezing.frozen import freeze
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent
from amtl_export.training.run import Run
from amtl_export.validation.raw_rows import check_raw
from amtl_export.validation.validate import validate


class Notes(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


SCHEMA = """
label = "y"
[[field]]
name = "city"
kind = "categorical"
default = "nowhere"
missing = ["?"]
[[field]]
name = "shop"
kind = "categorical"
type = "int64"
default = 3
[[field]]
name = "seen"
kind = "sequence"
of = "shop"
type = "int64"
default = 5
[[field]]
name = "tags"
kind = "multi-valued"
default = "a"
max_length = 3
[[field]]
name = "price"
kind = "numeric"
missing = ["-1"]
default = 2.5
[[field]]
name = "age"
kind = "categorical"
missing = ["-1", "18"]
boundaries = [0, 18, 65.5]
[[field]]
name = "cost"
column = "price"
kind = "categorical"
boundaries = [0.5]
default = 1
[[field]]
name = "hour"
column = "time"
kind = "categorical"
part = "hour"
missing = ["never"]
[[field]]
name = "weekday"
column = "time"
kind = "categorical"
part = "weekday"
missing = ["never"]
default = "2024-05-05"
[[field]]
name = "day"
column = "epoch"
kind = "categorical"
part = "day"
unit = "s"
missing = ["0"]
[[field]]
name = "month"
column = "epoch"
kind = "categorical"
part = "month"
unit = "ms"
missing = ["0"]
default = 86400000
"""


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(5)
    n = 1500

    def texts(*values: str) -> list[str]:
        return [values[i] for i in rng.integers(0, len(values), n)]

    frame = pl.DataFrame(
        {
            "y": rng.integers(0, 2, n),
            "city": texts("", "?", "rome", " new  york ", "oslo"),
            "shop": texts("", "1", "2", "3", "4.0", "5"),
            "seen": texts("", "|", "1|2", "3||4", "5"),
            "tags": texts("", "a", "b|c", "c| a |b|a", "|"),
            "time": texts("", "never", "2024-05-01T12:00:00", "2023-12-31 23:59", "2024-02-29T00:00:00.5+02:00"),
            "epoch": texts("", "0", "-1", "951782400", "1700000000", "3e9".replace("e9", "000000000")),
            "age": texts("", "-1", "-2", "18", "18.5", "65.5", "1e3", "0.0", "NaN"),
            "price": texts("", "-1", "0.5", "1e3", "nan"),
        }
    )
    folder.mkdir(parents=True)
    frame.write_csv(folder / "rows.csv")
    (folder / "schema.toml").write_text(SCHEMA, encoding="utf-8")


@pytest.fixture(scope="module")
def derived_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("derived")
    write_data(folder / "data")
    config = TrainConfig(data=str(folder / "data"), method="fbe", dim=4, epochs=1, batch_size=256, hidden=(8,))
    return train(config, folder / "run")


@pytest.fixture(scope="module")
def derived(derived_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(freeze(derived_run), tmp_path_factory.mktemp("bundle") / "bundle", ExportConfig("dense"))


def test_raw_rows_and_hostile_values_have_one_id(derived: Bundle, derived_run: Run) -> None:
    verdict = validate(derived.path, derived_run.path)
    assert verdict.problems == []
    assert verdict.raw_rows_checked == verdict.raw_rows_equal
    assert (verdict.raw_rows_checked or 0) > 150


def test_a_missing_value_has_the_id_of_the_default(derived: Bundle, tmp_path: Path) -> None:
    write_encoder(derived, tmp_path / "encoder")
    encoder, vocabularies = Encoder(tmp_path / "encoder"), derived.vocabularies()
    (nothing,) = encoder.encode([{}])["ids"]
    assert nothing[:2] == [
        vocabularies["city"].encode(pl.Series(["nowhere"]))[0],
        vocabularies["shop"].encode(pl.Series([3]))[0],
    ]
    assert nothing[2:5] == [1, vocabularies["cost"].encode(pl.Series([1]))[0], 1]
    assert nothing[5:] == [
        vocabularies["weekday"].encode(pl.Series([6]))[0],
        1,
        vocabularies["month"].encode(pl.Series([1]))[0],
    ]
    assert encoder.encode([{}])["tags"] == [vocabularies["tags"].encode(pl.Series(["a"])).tolist()]
    assert encoder.encode([{"seen": " | "}])["seen"] == [vocabularies["seen"].encode(pl.Series([5])).tolist()]
    assert encoder.encode([{"price": "-1"}, {}])["numeric"] == [[2.5], [2.5]]
    for case in read_json(tmp_path / "encoder" / "golden.json")["cases"]:
        assert encoder.encode([case["row"]]) == case["inputs"]


def test_numbers_have_the_ids_of_their_buckets(derived: Bundle) -> None:
    age = derived.vocabularies()["age"]
    assert sorted(age.values) == [0, 1, 2, 3]
    fields = raw_fields(derived)
    numbers = values_of(np.arange(6), fields["age"])
    assert numbers.dtype == np.float32
    spec = normalisations(derived.run_schema)["age"]
    found = normalised(pl.Series(numbers), spec, refusing("age"))
    assert age.encode(found)[1:].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("part", "unit"), [(part, unit) for part in RANGES for unit in PER_SECOND])
def test_each_part_has_a_time(part: Part, unit: Unit) -> None:
    spec = Normalisation(field="f", column="c", type="int64", part=part, unit=unit, missing=("0", "1"))
    times = [raw_of(value, spec) for value in possible(spec)]
    assert normalised(pl.Series(times), spec, refusing("f")).to_list() == list(possible(spec))


def test_a_server_takes_the_values(derived: Bundle, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_raw_bundle(derived, tmp_path / "raw")
    raw = read_test_data(tmp_path / "raw", "input")
    expected = load(derived.path).predict(encoded(raw, derived))
    np.testing.assert_array_equal(load(tmp_path / "raw").predict(raw)["logit"], expected["logit"])
    types = {value.name: value.dtype for value in load(tmp_path / "raw").inputs}
    assert types["hour"] == types["day"] == "int64"
    assert types["age"] == types["cost"] == types["numeric"] == "float32"
    listed = {name: values.tolist() for name, values in raw.items()}
    np.testing.assert_array_equal(load(tmp_path / "raw").predict(listed)["logit"], expected["logit"])
    for keys in (0, 10**6):
        config = PackageConfig("python", raw_features=True, graph_keys=keys)
        made = package(derived.path, tmp_path / f"models{keys}", "ctr", config)
        assert "NaN" not in (made.model / "samples" / "request.json").read_text(encoding="utf-8")
        shutil.rmtree(tmp_path / f"models{keys}")


def test_times_of_parquet_have_the_ids_of_their_texts(derived: Bundle) -> None:
    texts = {name: pl.Series([None, None, ""], dtype=pl.String) for name in normalisations(derived.run_schema)}
    times = pl.Series([datetime(2024, 5, 1, 12), None, datetime(1969, 12, 31, 23, 59, 59, 7)])
    for zone in (None, "UTC", "America/New_York"):
        for unit in ("ms", "us", "ns"):
            column = times.dt.replace_time_zone(zone).cast(pl.Datetime(unit, zone))
            columns = texts | {"hour": column, "weekday": column, "day": pl.Series([0, -1, 2**40])}
            assert check_raw(derived, columns).problems == []


def test_rows_of_other_boundaries_are_not_taken(derived_run: Run, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    schema = SCHEMA.replace("[0, 18, 65.5]", "[0, 20, 65.5]")
    (tmp_path / "data" / "schema.toml").write_text(schema, encoding="utf-8")
    notes = Notes()
    config = replace(derived_run.train, data=str(tmp_path / "data"), warm_start=str(derived_run.path))
    train(config, tmp_path / "run", observer=notes)
    assert "warm start: not taken: age: its boundaries, buckets or part of a time differ" in notes.lines
    assert any(line.startswith("warm start: cost: ") for line in notes.lines)


HASHED = """
label = "y"
[[field]]
name = "city"
kind = "categorical"
buckets = 3
default = "nowhere"
[[field]]
name = "shop"
kind = "categorical"
type = "int64"
buckets = 4
[[field]]
name = "seen"
kind = "sequence"
of = "shop"
type = "int64"
[[field]]
name = "tags"
kind = "multi-valued"
buckets = 2
[[field]]
name = "age"
kind = "categorical"
boundaries = [18]
[[field]]
name = "price"
kind = "numeric"
"""


def test_hashed_values(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "data" / "schema.toml").write_text(HASHED, encoding="utf-8")
    config = TrainConfig(data=str(tmp_path / "data"), method="fbe", dim=4, epochs=1, batch_size=256, hidden=(8,))
    run = train(config, tmp_path / "run")
    assert describe(open_source(str(tmp_path / "data"))).fields[0].values <= 3
    bundle = export(freeze(run), tmp_path / "bundle", ExportConfig("dense"))
    verdict = validate(bundle.path, run.path)
    assert verdict.problems == []
    assert verdict.raw_rows_checked == verdict.raw_rows_equal
    made = package(bundle.path, tmp_path / "models", "ctr", PackageConfig("python"))
    encoder = Encoder(made.path / "encoder")
    for case in read_json(made.path / "encoder" / "golden.json")["cases"]:
        encoded_row = {
            n: [[None if x != x else x for x in r] for r in v] for n, v in encoder.encode([case["row"]]).items()
        }
        assert encoded_row == case["inputs"]
    assert encoder.encode([{"city": "a city that training never saw"}])["ids"][0][0] >= 2
    for keys in (0, 10**6):
        with pytest.raises(InputError, match=r"(?s)cannot hash values.*found: (city, shop|seen, tags|.*tags)"):
            package(bundle.path, tmp_path / "raw", "ctr", PackageConfig("python", raw_features=True, graph_keys=keys))
    assert not (tmp_path / "raw").exists() or not list((tmp_path / "raw").iterdir())
