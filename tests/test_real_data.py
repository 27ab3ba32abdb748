"""The main job on public data sets, where they are at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.data.catalog import open_source
from amtl_export.data.rows import read_rows
from amtl_export.freezing.frozen import freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.raw_rows import check_source
from amtl_export.validation.validate import validate

pytestmark = pytest.mark.real_data

#: Raw rows of a test split that go all ways; all of a smaller one.
ROWS = 20_000

FOLDERS = {
    "ml-1m": "ml-1m",
    "ml-100k": "ml-100k",
    "ijcai18": "ijcai18-sample",
    "taobao": "taobao-ecomm",
    "taobao-history": "taobao-ecomm",
    "criteo": "criteo-10k",
}


def config(real_data: Path, name: str, **changes: object) -> TrainConfig:
    made = TrainConfig(data=name, path=str(real_data / FOLDERS[name]))
    return replace(made, **changes)  # type: ignore[arg-type]


def check_both_layouts(run: Run, folder: Path) -> None:
    frozen = freeze(run)
    for layout in ("dense", "paged"):
        bundle = export(frozen, folder / layout, ExportConfig(layout=layout))
        values = validate(bundle.path, run.path).to_json()
        assert values["problems"] == []
        assert values["abs_delta_auc"] <= 1e-6
        assert values["rows_bit_equal"] == values["rows_checked"] == sum(run.model.method.sizes)


def check_raw_features(run: Run, config: TrainConfig, folder: Path) -> None:
    """Raw rows of the test split, then hostile values: three ways to the ids that training wrote."""
    bundle = export(freeze(run), folder / "served", ExportConfig("ragged"))
    chunks = read_rows(open_source(config.data, config.path), config.seed)
    raw = pl.concat([chunk.raw_of_split(2) for chunk in chunks])
    written = run.rows("test")
    assert len(raw) == len(written)
    drawn = np.sort(np.random.default_rng(0).permutation(len(raw))[:ROWS])
    found = check_source(bundle, raw[drawn], written.take(drawn))
    assert found.problems == []
    assert found.rows == found.equal >= len(drawn)


@pytest.mark.parametrize(
    "name", ["ml-100k", "ijcai18", pytest.param("taobao", marks=pytest.mark.long), "taobao-history", "criteo"]
)
def test_amtl_on(name: str, real_data: Path, tmp_path: Path) -> None:
    backbone = "din" if name == "taobao-history" else "dnn"
    settings = config(real_data, name, epochs=2, backbone=backbone)
    run = train(settings, tmp_path / "run")
    assert 0 < run.metrics["avg_dim"] <= 16
    check_both_layouts(run, tmp_path)
    check_raw_features(run, settings, tmp_path)


@pytest.mark.long
def test_ml_1m_reaches_the_published_auc(real_data: Path, tmp_path: Path) -> None:
    """RecBole's DNN has .8903 under this protocol; nine epochs of the default settings are enough."""
    run = train(config(real_data, "ml-1m", method="fbe", epochs=9), tmp_path / "run")
    rows = run.metrics["rows"]
    assert sum(rows.values()) == 739_012
    assert run.metrics["auc_test"] >= 0.8903
    check_both_layouts(run, tmp_path)


def test_amtl_on_ml_1m(real_data: Path, tmp_path: Path) -> None:
    settings = config(real_data, "ml-1m", epochs=2)
    run = train(settings, tmp_path / "run")
    assert run.metrics["auc_test"] > 0.86
    assert run.metrics["avg_dim"] < 16
    check_both_layouts(run, tmp_path)
    check_raw_features(run, settings, tmp_path)
