"""Fields with the vocabulary of another: the same ids, counts and rows of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from data_places import place, write

from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.export import export
from amtl_export.bundle.raw import key_count, raw_fields
from amtl_export.data.catalog import open_source
from amtl_export.data.encode import Encoded, encode
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate

HEAD = 'label = "y"\n[split]\nrule = "column"\ncolumn = "part"\n'
ITEM = '[[field]]\nname = "item"\nkind = "categorical"\nmin_count = 3\nmissing = ["-"]\n'
LIKED = '[[field]]\nname = "liked"\nkind = "multi-valued"\nvocabulary = "item"\nmissing = ["b"]\n'
LAST = '[[field]]\nname = "last"\nkind = "categorical"\nvocabulary = "item"\n'
SEEN = '[[field]]\nname = "seen"\nkind = "sequence"\nof = "last"\nseparator = ";"\n'


def encoded(tmp_path: Path, fields: str, data: pl.DataFrame) -> Encoded:
    folder = place(tmp_path, HEAD + fields)
    data.write_csv(folder / "a.csv")
    return encode(open_source(str(folder)), tmp_path / "out", seed=0)


def small() -> pl.DataFrame:
    """`item` alone would have a before b before c."""
    item = ["a", "a", "a", "b", "b", "c", "-", "a", "b", "c", "d"]
    last = ["c", "c", "c", "c", "b", "-", "d", "d", "b", "-", None]
    liked = ["c|c", "c", "", "b|e", "e|a", None, "-|f", "e", "a|b|c", "", "f"]
    y, part = [0, 1] * 5 + [0], ["train"] * 7 + ["valid", "valid", "test", "test"]
    return pl.DataFrame({"item": item, "last": last, "liked": liked, "y": y, "part": part})


def test_values_are_counted_together_and_counts_are_each_field_s_own(tmp_path: Path) -> None:
    found = encoded(tmp_path, LIKED + LAST + ITEM, small())
    item, last, liked = (found.vocabularies[name] for name in ("item", "last", "liked"))
    # c: 1 + 4 + 3, a: 3 + 0 + 1, b: 2 + 1 (missing in liked); d, e and f are too rare: 1, 2 and 1
    assert [v.values.to_list() for v in (item, last, liked)] == [["c", "a", "b"]] * 3
    assert item.counts.tolist() == [0, 1, 1, 3, 2]
    assert last.counts.tolist() == [1, 1, 4, 0, 1]
    assert liked.counts.tolist() == [3, 2, 3, 1, 0, 0]
    assert (item.padding, last.padding, liked.padding) == (None, None, 5)
    assert found.rows["valid"].ids.tolist() == [[0, 3], [4, 4]]
    assert found.rows["valid"].multi["liked"].tolist() == [[0, 5], [3, 2]]
    assert found.rows["test"].ids.tolist() == [[1, 2], [1, 0]]
    assert found.rows["test"].multi["liked"].tolist() == [[1, 5], [0, 5]]


def test_whole_numbers_of_a_multi_valued_owner(tmp_path: Path) -> None:
    tags = '[[field]]\nname = "tags"\nkind = "multi-valued"\ntype = "int64"\nmin_count = 1\n'
    tag = '[[field]]\nname = "tag"\nkind = "categorical"\ntype = "int64"\nvocabulary = "tags"\n'
    y, part = [0, 1] * 3, ["train", "train", "valid", "valid", "test", "test"]
    data = {"tags": ["5|7", "5.0", "7", "9", "5", "7"], "tag": ["7", "8", "8", "+5", "", "9"], "y": y, "part": part}
    found = encoded(tmp_path, tag + tags, pl.DataFrame(data))
    assert [v.values.to_list() for v in found.vocabularies.values()] == [[5, 7, 8]] * 2
    assert {name: v.padding for name, v in found.vocabularies.items()} == {"tag": None, "tags": 5}
    assert found.rows["valid"].ids.tolist() == [[4], [2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (ITEM + LAST.replace('"item"', '"thing"'), "'thing' is no categorical or multi-valued field"),
        (ITEM + LAST.replace('"item"', '"last"'), "'last' is no categorical or multi-valued field"),
        (ITEM + LAST + LAST.replace("last", "first").replace('"item"', '"last"'), "'last' is no categorical"),
        (ITEM + LAST + SEEN + LIKED.replace('"item"', '"seen"'), "'seen' is no categorical"),
        (ITEM + SEEN.replace('"last"', '"item"') + 'vocabulary = "item"\n', "is for categorical and multi-valued"),
        (ITEM + LAST + 'type = "int64"\n', "whose type is 'string' and not 'int64'"),
        (ITEM + LAST + "min_count = 7\n", "whose min_count is 3 and not 7"),
        (ITEM + LAST + "trim = false\n", "whose trim is True and not False"),
        (
            ITEM + '[[field]]\nname = "x"\nkind = "numeric"\nvocabulary = "item"\n',
            "is for categorical and multi-valued",
        ),
    ],
)
def test_vocabularies_that_cannot_be_shared(tmp_path: Path, fields: str, message: str) -> None:
    write(tmp_path / "schema.toml", HEAD + fields)
    with pytest.raises(InputError, match=message):
        Schema.from_toml(tmp_path / "schema.toml")


def test_a_schema_with_them_is_the_same_as_json(tmp_path: Path) -> None:
    write(tmp_path / "schema.toml", HEAD + ITEM + LIKED + LAST + SEEN)
    schema = Schema.from_toml(tmp_path / "schema.toml")
    assert Schema.from_values(json.loads(json.dumps(schema.to_json())), "") == schema


def trained(tmp_path: Path, method: str) -> Run:
    """Of fields whose counts rise with the id here and there, over texts with spaces."""
    rng = np.random.default_rng(0)
    n = 3000
    item, last = rng.zipf(1.3, n) % 60, (rng.zipf(1.3, n) + 30) % 60
    names = np.array([f"thing {i}" for i in range(60)])
    lists = ["|".join(names[rng.integers(0, 60, rng.integers(0, 4))]) for _ in range(n)]
    seen = [";".join(names[(last[i] + rng.integers(0, 9, rng.integers(0, 3))) % 60]) for i in range(n)]
    clicks = (rng.random(n) < 0.2 + 0.5 * (item == last) + 0.2 * (item % 3 == 0)).astype(int)
    folder = place(tmp_path, 'label = "y"\n' + ITEM + LIKED.replace('["b"]', '["thing 3"]') + LAST + SEEN)
    data = {"item": names[item], "last": names[last], "liked": lists, "seen": seen, "y": clicks}
    pl.DataFrame(data).write_csv(folder / "data.csv")
    settings = TrainConfig(data=str(folder), method=method, dim=8, epochs=1, batch_size=64, hidden=(8,), mde_blocks=3)
    return train(replace(settings, dim_budget=None if method == "fbe" else 0.5), tmp_path / "run")


@pytest.mark.parametrize("method", ["amtl", "mde"])
def test_a_run_with_a_shared_vocabulary_is_proved_from_raw_values(tmp_path: Path, method: str) -> None:
    run = trained(tmp_path, method)
    counts = run.vocabularies["last"].counts[2:-1]
    assert (np.diff(counts) > 0).any()  # which is what shared vocabularies bring
    bundle = export(freeze(run), tmp_path / "bundle")
    verdict = validate(bundle.path, run)
    assert not verdict.problems
    assert verdict.raw_rows_equal == verdict.raw_rows_checked
    assert (verdict.raw_rows_checked or 0) > 100
    assert {f.name: f.shares for f in run.model_config.embedded} == {
        "item": None,
        "last": None,
        "liked": None,
        "seen": "last",
    }


def test_a_package_encodes_each_field_by_itself(tmp_path: Path) -> None:
    bundle = export(freeze(trained(tmp_path, "fbe")), tmp_path / "bundle")
    fields = raw_fields(bundle)
    values = fields["item"].vocabulary.values
    assert key_count(fields) == len(values)
    write_encoder(bundle, tmp_path / "encoder")
    files = json.loads((tmp_path / "encoder/encoder.json").read_text())["fields"]
    own = {name: field["file"] for name, field in files.items()}
    assert own == {"item": "item.jsonl", "last": "last.jsonl", "liked": "liked.jsonl", "seen": "last.jsonl"}
    assert not (tmp_path / "encoder/seen.jsonl").exists()
    version = package(bundle.path, tmp_path / "models", "ctr", PackageConfig("python", raw_features=True))
    nodes = onnx.load(str(version.path / "model.onnx/model.onnx"), load_external_data=False).graph.node
    encoders = [node for node in nodes if node.op_type == "LabelEncoder"]
    assert len(encoders) == 2  # liked has a text of "missing" that the others have not
    one = np.array([[values[0]]], dtype=object)
    raw = {"item": one, "last": one, "liked": np.array([["thing 3", ""]], dtype=object), "seen": one}
    assert np.isfinite(load(version.path / "model.onnx").predict(raw)["probability"]).all()
