"""`unknown = …`: what a value outside the vocabulary is read as, the same in training, encoder and graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.bundle.encoder import Encoder
from amtl_export.bundle.encoder_files import write_encoder
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.data.vocabulary import FIRST_VALUE, OOV, Vocabulary
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate

TOML = """
label = "click"
[[field]]
name = "city"
kind = "categorical"
type = "int64"
unknown = "7.0"
min_count = 20
[[field]]
name = "item"
kind = "categorical"
unknown = " other "
min_count = 5
[[field]]
name = "last"
kind = "categorical"
vocabulary = "item"
[[field]]
name = "seen"
kind = "sequence"
of = "item"
[[field]]
name = "tags"
kind = "multi-valued"
unknown = "t1"
min_count = 10
[[field]]
name = "plain"
kind = "categorical"
"""
Train = Callable[..., TrainConfig]


def write(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    n = 1500
    item = [f"i{k}" if k < 60 else "other" for k in rng.zipf(1.5, n)]
    seen, tags = ([[f"{c}{k}" for k in rng.zipf(1.6, m) % 50] for m in rng.integers(0, 4, n)] for c in "it")
    frame = pl.DataFrame(
        {
            "city": rng.zipf(1.3, n) % 40,
            "item": item,
            "last": rng.permutation(item),
            "seen": ["|".join(own) for own in seen],
            "tags": ["|".join(own) for own in tags],
            "plain": [f"p{k}" for k in rng.zipf(1.3, n) % 300],
            "click": rng.integers(0, 2, n),
        }
    )
    folder.mkdir()
    frame.write_csv(folder / "rows.csv")
    (folder / "schema.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_train: Train) -> Run:
    folder = tmp_path_factory.mktemp("unknown")
    return train(tiny_train(data=str(write(folder / "data")), epochs=1), folder / "run")


def test_rare_values_train_the_one_that_they_are_read_as(trained: Run) -> None:
    stands = {"city": 7, "item": "other", "last": "other", "seen": "other", "tags": "t1"}
    for name, value in stands.items():
        vocabulary = trained.vocabularies[name]
        assert vocabulary.unknown == FIRST_VALUE + vocabulary.values.to_list().index(value)
        assert vocabulary.encode(pl.Series([10**9] if name == "city" else ["never"]))[0] == vocabulary.unknown
        assert vocabulary.counts[OOV] == 0
    plain = trained.vocabularies["plain"]
    assert plain.unknown == OOV
    assert plain.counts[OOV] > 0
    raw = pl.read_csv(Path(trained.train.data) / "rows.csv")
    city = trained.vocabularies["city"]
    ids = trained.rows("test").ids[:, 0]
    assert (ids != OOV).all()
    rare = raw["city"].value_counts().filter(pl.col("count") < 20)["city"]
    assert len(rare) > 3
    train_rows = sum(city.counts) - city.counts[1]
    assert city.counts[city.unknown] > (raw["city"] == 7).sum() * train_rows / len(raw) * 0.8


def test_training_encoder_and_graph_agree(trained: Run, tmp_path: Path) -> None:
    bundle = export(freeze(trained), tmp_path / "bundle", ExportConfig("dense"))
    verdict = validate(bundle.path, trained)
    assert verdict.verdict == "pass", verdict.problems
    assert verdict.raw_rows_checked == verdict.raw_rows_equal
    assert not verdict.notes
    write_encoder(bundle, tmp_path / "encoder")
    found = Encoder(tmp_path / "encoder").encode([{"city": -5, "item": "??", "tags": "t1|zz", "plain": "zz"}])
    city, item, tags = (trained.vocabularies[name].unknown for name in ("city", "item", "tags"))
    assert found["ids"] == [[city, item, 1, OOV]]
    assert found["tags"] == [[tags, tags]]


def test_a_vocabulary_file_says_so(trained: Run, tmp_path: Path) -> None:
    city = trained.vocabularies["city"]
    city.write(tmp_path / "city.parquet")
    frame = pl.read_parquet(tmp_path / "city.parquet")
    assert frame.filter(pl.col("kind") == "unknown")["value"].to_list() == [7]
    again = Vocabulary.read(tmp_path / "city.parquet", "city")
    assert (again.unknown, again.digest) == (city.unknown, city.digest)
    plain = Vocabulary("city", city.values, city.counts)
    assert plain.digest != city.digest
    frame.with_columns(kind=pl.lit("unknown")).write_parquet(tmp_path / "city.parquet")
    with pytest.raises(InputError, match="out of place"):
        Vocabulary.read(tmp_path / "city.parquet", "city")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('unknown = "7.0"', "unknown = 4000", "cannot be read as 4000"),
        ('unknown = " other "', 'unknown = "i59"', "fewer than 5 times"),
        ('unknown = "7.0"', 'unknown = "x"', "which takes a whole number"),
        ('of = "item"', 'of = "item"\nunknown = "i1"', "unknown is for kind"),
        ('vocabulary = "item"', 'vocabulary = "item"\nunknown = "i1"', "whose unknown is ' other '"),
        ('unknown = "t1"', 'unknown = "t1|t2"', "holds the separator"),
    ],
)
def test_what_cannot_stand_for_others_is_refused(
    tmp_path: Path, tiny_train: Train, old: str, new: str, said: str
) -> None:
    data = write(tmp_path / "data")
    (data / "schema.toml").write_text(TOML.replace(old, new))
    with pytest.raises(InputError, match=said):
        train(tiny_train(data=str(data)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
