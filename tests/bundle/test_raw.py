"""Values in, scores out: a bundle with its vocabularies in front answers as the bundle answers their ids."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import polars as pl
import pytest

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.raw import (
    encoded,
    key_count,
    raw_fields,
    unknown_value,
    values_of,
)
from amtl_export.bundle.raw_bundle import write_encoder_bundle, write_raw_bundle
from amtl_export.bundle.samples import read_test_data
from amtl_export.data.normalise import NO_NUMBER, Normalisation
from amtl_export.data.vocabulary import Vocabulary
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.inputs import graph_inputs
from amtl_export.graph.raw_features import encoder_model, fits_one_model
from amtl_export.graph.raw_field import RawField, encoded_name
from amtl_export.runtime.predictor import load
from amtl_export.runtime.session import open_session
from amtl_export.spec import BATCH, Column, TensorSpec

NOTHING = NO_NUMBER


@pytest.fixture(scope="module")
def raw_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each layout."""
    folder = tmp_path_factory.mktemp("raw")
    write_raw_bundle(bundle, folder)
    return folder


def values(n: int = 40) -> dict[str, Any]:
    """Values known, unknown and missing, alone and in lists."""
    rng = np.random.default_rng(3)
    tags = rng.integers(-2, 14, (n, 4))
    tags[rng.random((n, 4)) < 0.3] = NOTHING
    tags[0], tags[1] = NOTHING, [NOTHING, 3, NOTHING, 4]
    user, item = (rng.integers(990, 1200, (n, 1)) for _ in range(2))
    user[2], item[3], item[4] = NOTHING, NOTHING, np.iinfo(np.int64).max
    segment = np.array([f"s{i}" for i in rng.integers(-1, 12, n)], dtype=object)[:, None]
    segment[5], segment[6] = "", "ünbekannt\n"
    numeric = rng.normal(30, 10, (n, 1)).astype(np.float32)
    return {"user": user, "item": item, "segment": segment, "tags": tags, "numeric": numeric}


def test_values_are_answered_as_their_ids(raw_bundle: Path, bundle: Bundle) -> None:
    raw = values()
    ids = encoded(raw, bundle)
    assert {0, 1} < set(ids["ids"].ravel().tolist())
    assert ids["tags"][0].tolist() == [1, 14, 14, 14]
    expected, found = load(bundle.path).predict(ids), load(raw_bundle).predict(raw)
    # A value missing inside a list leaves padding there, and the sum of the rows is rounded alike.
    for name, answers in expected.items():
        np.testing.assert_array_equal(found[name], answers)
    none = {name: array[:0] for name, array in raw.items()}
    assert load(raw_bundle).predict(none)["logit"].shape == (0,)


def test_texts_of_servers_and_of_numpy(raw_bundle: Path) -> None:
    predictor, raw = load(raw_bundle), values(8)
    expected = predictor.predict(raw)["logit"]
    texts = raw["segment"]
    for given in (texts.astype(str), np.char.encode(texts.astype(str)), texts.tolist()):
        np.testing.assert_array_equal(predictor.predict(raw | {"segment": given})["logit"], expected)
    for wrong, says in ((np.array([[1]] * 8), "texts"), ([[None]] * 8, "texts"), ([[b"\xff"]] * 8, "UTF-8")):
        with pytest.raises(InputError, match=says):
            predictor.predict(raw | {"segment": wrong})


def test_the_encoder_alone(paged_bundle: Bundle, tmp_path: Path) -> None:
    write_encoder_bundle(paged_bundle, tmp_path)
    raw = values()
    expected = encoded(raw, paged_bundle)
    given = {name: array for name, array in raw.items() if name != "numeric"}
    found = load(tmp_path).predict(given)
    np.testing.assert_array_equal(found["encoded_ids"], expected["ids"])
    counts = np.maximum((raw["tags"] != NOTHING).sum(axis=1), 1)  # values, or missing where there is none
    packed = [row[:count] for row, count in zip(expected["tags"], counts, strict=True)]
    padding = paged_bundle.vocabularies()["tags"].padding
    for row, ids in zip(found["encoded_tags"], packed, strict=True):
        assert [i for i in row if i != padding] == ids.tolist()
    assert load(tmp_path).metadata["amtl.vocabulary_hash"] == paged_bundle.signature.vocabulary_hash


@pytest.mark.parametrize("request_fields", [("user",), ("tags", "age"), ("item", "segment", "tags")])
def test_request_fields(frozen: FrozenModel, tmp_path: Path, request_fields: tuple[str, ...]) -> None:
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("ragged", request_fields=request_fields))
    (tmp_path / "raw").mkdir()
    write_raw_bundle(bundle, tmp_path / "raw")
    predictor = load(tmp_path / "raw")
    assert {spec.name for spec in predictor.inputs if spec.shape[0] == 1} >= set(request_fields) - {"age"}
    raw = read_test_data(tmp_path / "raw", "input")
    expected = load(bundle.path).predict(encoded(raw, bundle))
    np.testing.assert_allclose(predictor.predict(raw)["logit"], expected["logit"], rtol=1e-6)


def inputs(request_fields: tuple[str, ...] = ()) -> tuple[TensorSpec, ...]:
    """Of a graph of one item, and lists of items."""
    item = TensorSpec("ids", "int64", (BATCH, 1), (Column("item", 6),), "ids")
    seen = TensorSpec("seen", "int64", (BATCH, "length_seen"), (Column("seen", 6, 5),), "seen")
    return graph_inputs((item, seen), request_fields)


def shared(kind: Literal["string", "int64"], given: list[Any], padded: bool = True) -> dict[str, RawField]:
    """An item, and lists of items."""
    values = pl.Series(given, dtype=pl.Int64 if kind == "int64" else pl.String)
    counts = np.arange(len(given) + 2 + padded)
    item = Vocabulary("item", values, counts, padded)
    spec = Normalisation(field="item", column="item", type=kind, missing=("NA", "-5"))
    lists = spec.model_copy(update={"field": "seen", "many": True, "max_length": 3})
    return {"item": RawField(item, spec, "item"), "seen": RawField(replace(item, field="seen"), lists, "item")}


@pytest.mark.parametrize(("kind", "given"), [("int64", [10, 20, -30]), ("string", ["a", "b", "c"])])
@pytest.mark.parametrize("request_fields", [(), ("seen",)])
def test_fields_that_share_a_vocabulary(
    kind: Literal["string", "int64"], given: list[Any], request_fields: tuple[str, ...]
) -> None:
    fields = shared(kind, given)
    model = encoder_model(inputs(request_fields), fields, {})
    assert [node.op_type for node in model.graph].count("LabelEncoder") == 1
    assert key_count(fields) == 3
    _, b, c = given
    unknown, nothing = unknown_value(fields["item"]), fields["item"].missing[0]
    seen = [[c, unknown, nothing], [nothing, nothing, nothing]][: 1 if request_fields else 2]
    session = open_session(ir.to_proto(model).SerializeToString())
    feed = {"item": np.array([[b], [nothing]]), "seen": np.array(seen)}
    feed = {name: array if kind == "int64" else array.astype(object) for name, array in feed.items()}
    names = [encoded_name(own.name) for own in inputs(request_fields)]
    found = dict(zip(names, session.run(names, feed), strict=True))
    assert found["encoded_ids"].tolist() == [[3], [1]]
    assert found["encoded_seen"].tolist() == [[4, 0, 5], [1, 5, 5]][: 1 if request_fields else 2]


def test_values_have_the_ids_they_are_of(paged_bundle: Bundle) -> None:
    for field in raw_fields(paged_bundle).values():
        ids = np.arange(-1, field.vocabulary.size + 1)
        back = field.vocabulary.encode(pl.Series(values_of(ids, field).tolist(), dtype=field.vocabulary.values.dtype))
        known = slice(3, 3 + len(field.vocabulary.values))
        assert back[known].tolist() == ids[known].tolist()
        assert back[[0, 1, -1]].tolist() == [0, 0, 0]


def test_vocabularies_of_another_run_are_refused(paged_bundle: Bundle, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(paged_bundle.path, tmp_path / "bundle"))
    frame = pl.read_parquet(spoilt / "vocab" / "user.parquet")
    frame.with_columns(count=pl.col("count") + 1).write_parquet(spoilt / "vocab" / "user.parquet")
    with pytest.raises(InputError, match="not those of the bundle's ids"):
        write_raw_bundle(open_bundle(spoilt), tmp_path)


def test_too_many_values_for_a_model() -> None:
    """Two gigabytes of keys, from texts that share their bytes."""
    texts = pl.Series(["x" * 1000]).new_from_index(0, 2_000_000)
    vocabulary = Vocabulary("item", texts, np.ones(2_000_002, dtype=np.int64))
    spec = Normalisation(field="item", column="item", type="string")
    with pytest.raises(InputError, match="too large"):
        encoder_model(inputs()[:1], {"item": RawField(vocabulary, spec, "item")}, {})
    assert not fits_one_model({"item": RawField(vocabulary, spec, "item")})
