"""The main job on public data sets, where they are at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from amtl_export.bundle.encoder import Encoder
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.raw import raw_fields, unknown_value, write_raw_bundle
from amtl_export.data.catalog import open_source
from amtl_export.data.expressions import LABEL
from amtl_export.data.rows import SPLIT, read_rows
from amtl_export.freezing.frozen import freeze
from amtl_export.graph.raw_features import RawField
from amtl_export.runtime.predictor import load
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate

pytestmark = pytest.mark.real_data

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
    """The test split as values, then again with some unknown and missing: three ways to its ids.

    They are the encoder that needs Python alone, the graph, and the rows that training wrote.
    """
    bundle = export(freeze(run), folder / "served", ExportConfig("ragged"))
    write_encoder(bundle, folder / "encoder")
    (folder / "raw").mkdir()
    write_raw_bundle(bundle, folder / "raw")
    encoder, fields = Encoder(folder / "encoder"), raw_fields(bundle)
    chunks = read_rows(open_source(config.data, config.path), config.seed)
    rows = pl.concat([chunk.of_split(2) for chunk in chunks]).drop(LABEL, SPLIT)
    written = run.rows("test")
    assert len(rows) == len(written)
    rng = np.random.default_rng(0)
    for spoilt in (False, True):
        if spoilt:
            rows = rows.with_columns(_spoilt(rows[name], field, rng) for name, field in fields.items())
        feed = {name: np.array(values) for name, values in encoder.encode(rows.to_dicts()).items()}
        if not spoilt:
            assert np.array_equal(feed["ids"], written.ids)
            for name, values in written.multi.items():
                assert np.array_equal(feed[name], values[:, : feed[name].shape[1]])
        raw = {name: _as_values(rows[name], field) for name, field in fields.items()}
        raw |= {name: values for name, values in feed.items() if name == "numeric"}
        expected, found = load(bundle.path).predict(feed), load(folder / "raw").predict(raw)
        assert np.array_equal(found["logit"], expected["logit"])


def _spoilt(values: pl.Series, field: RawField, rng: np.random.Generator) -> pl.Series:
    """A tenth unknown, a tenth missing."""
    drawn = pl.Series(rng.random(len(values)))
    unknown = unknown_value(field)
    lists = isinstance(values.dtype, pl.List)
    other = pl.Series([[unknown] if lists else unknown], dtype=values.dtype).new_from_index(0, len(values))
    spoilt = values.zip_with(drawn > 0.1, other)
    return spoilt.zip_with(drawn < 0.9, pl.Series([None], dtype=values.dtype).new_from_index(0, len(values)))


def _as_values(values: pl.Series, field: RawField) -> npt.NDArray[Any]:
    """`[N, 1]`, or `[N, L]` for lists."""
    nothing = field.missing[0]
    dtype = np.int64 if field.vocabulary.type == "int64" else object
    if not isinstance(values.dtype, pl.List):
        return np.array(values.fill_null(nothing).to_list(), dtype=dtype)[:, None]
    lists = [own or [] for own in values.to_list()]
    width = max(1, *map(len, lists))
    return np.array([[*own, *[nothing] * (width - len(own))] for own in lists], dtype=dtype)


@pytest.mark.parametrize("name", ["ml-100k", "ijcai18", "taobao", "taobao-history", "criteo"])
def test_amtl_on(name: str, real_data: Path, tmp_path: Path) -> None:
    backbone = "din" if name == "taobao-history" else "dnn"
    settings = config(real_data, name, epochs=2, backbone=backbone)
    run = train(settings, tmp_path / "run")
    assert 0 < run.metrics["avg_dim"] <= 16
    check_both_layouts(run, tmp_path)
    check_raw_features(run, settings, tmp_path)


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
