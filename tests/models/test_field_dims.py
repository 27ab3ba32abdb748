"""Fields with a dim of their own: rows as wide as that, the rest of D zero, from training to the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.models.ctr import BACKBONES
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.validate import validate

D = 12
WIDTHS = {"user": 3, "item": 12, "tags": 5, "seen": 12}
TOML = """
label = "click"
[[field]]
name = "user"
kind = "categorical"
dim = 3
[[field]]
name = "item"
kind = "categorical"
[[field]]
name = "tags"
kind = "multi-valued"
dim = 5
[[field]]
name = "seen"
kind = "sequence"
of = "item"
"""
Train = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dims") / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    n = 2000
    user, item = rng.integers(0, 60, n), rng.integers(0, 50, n)
    tags, seen = (["|".join(map(str, rng.integers(0, 20, k))) for k in rng.integers(0, 4, n)] for _ in range(2))
    chance = 1 / (1 + np.exp(-rng.normal(size=60)[user] * 2 - rng.normal(size=50)[item] * 2))
    click = (rng.random(n) < chance).astype(int)
    pl.DataFrame({"user": user, "item": item, "tags": tags, "seen": seen, "click": click}).write_csv(folder / "a.csv")
    (folder / "schema.toml").write_text(TOML)
    return folder


@pytest.mark.parametrize(
    ("method", "backbone"),
    [*(("amtl", backbone) for backbone in BACKBONES), *((m, "dnn") for m in ("fbe", "aml", "amtl_nste", "cut"))],
)
def test_rows_are_as_wide_as_their_field(
    data: Path, tmp_path: Path, tiny_train: Train, method: str, backbone: str
) -> None:
    decay = {"embedding_decay": 1e-4} if method == "fbe" else {}
    budget = {"dim_budget": 0.3} if method != "fbe" else {}
    config = tiny_train(data=str(data), method=method, backbone=backbone, **decay, **budget)
    run = train(config, tmp_path / "run")
    frozen = freeze(run)
    for name, width in WIDTHS.items():
        dims = frozen.field_dims(name).numpy()
        assert 0 < dims.max() <= width, name
        own = next(own for own in frozen.fields if own.name == name)
        rows = frozen.tables[own.table].rows[own.offset : own.offset + own.size]
        assert not rows[:, width:].any()
        assert rows[:, :width].any()
        assert run.metrics["fields"][name]["dim"] == width
    if budget:
        assert run.metrics["avg_dim_ratio"] <= 0.3
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("ragged"))
    verdict = validate(bundle.path, run)
    assert verdict.verdict == "pass", verdict.problems
    table = bundle.signature.table
    assert table.bytes < table.bytes_dense


def test_numbers_beyond_learn_nothing(data: Path, tmp_path: Path, tiny_train: Train) -> None:
    run = train(tiny_train(data=str(data), method="fbe", embedding_decay=1e-3), tmp_path / "run")
    weight = run.model.get_parameter("embedding.table.weight")
    first = run.vocabularies["user"].size
    assert weight[:first, :3].abs().sum() > 0
    assert torch.equal(weight[:first, 3:], torch.zeros(first, D - 3))


def test_compressing_and_warm_starts_go_on_from_there(data: Path, tmp_path: Path, tiny_train: Train) -> None:
    run = train(tiny_train(data=str(data), method="fbe"), tmp_path / "run")
    small = compress(run, dim_budget=0.2)
    verdict = validate(export(small, tmp_path / "bundle").path, small)
    assert verdict.verdict == "pass", verdict.problems
    config = tiny_train(data=str(data), dim_budget=0.2, warm_start=str(tmp_path / "run"))
    warm = train(config, tmp_path / "warm")
    assert freeze(warm).field_dims("user").max() <= 3
    assert warm.metrics["avg_dim_ratio"] <= 0.2


def test_a_narrower_field_takes_the_leading_numbers(data: Path, tmp_path: Path, tiny_train: Train) -> None:
    train(tiny_train(data=str(data), method="fbe"), tmp_path / "run")
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    (narrow / "a.csv").write_bytes((data / "a.csv").read_bytes())
    (narrow / "schema.toml").write_text(TOML.replace("dim = 3", "dim = 2"))
    start = {"warm_start": str(tmp_path / "run"), "epochs": 0}
    config = tiny_train(data=str(narrow), method="fbe", **start)
    warm = train(config, tmp_path / "warm")
    earlier = freeze(str(tmp_path / "run"))
    size = warm.vocabularies["user"].size
    assert torch.equal(freeze(warm).table.rows[:size, :2], earlier.table.rows[:size, :2])
    assert not freeze(warm).table.rows[:size, 2:].any()


@pytest.mark.parametrize("method", ["mde", "autoemb"])
def test_methods_that_choose_sizes_refuse(data: Path, tmp_path: Path, tiny_train: Train, method: str) -> None:
    with pytest.raises(InputError, match="chooses sizes itself"):
        train(tiny_train(data=str(data), method=method), tmp_path / "run")


def test_wider_than_the_model_is_refused(data: Path, tmp_path: Path, tiny_train: Train) -> None:
    with pytest.raises(InputError, match=r"(?s)dim = 5 of field tags.*D = 4") as raised:
        train(tiny_train(data=str(data), dim=4), tmp_path / "run")
    assert not (tmp_path / "run.partial").exists()
    assert "another method or D" in str(raised.value)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('kind = "numeric"\ndim = 2', "dim is for kind"),
        ('kind = "sequence"\nof = "item"\ndim = 2', "dim is for kind"),
        ('kind = "categorical"\ndim = 0', "greater than or equal to 1"),
        ('kind = "categorical"\ndim = 2.5', "integer"),
    ],
)
def test_dims_that_make_no_sense(tmp_path: Path, field: str, said: str) -> None:
    file = tmp_path / "schema.toml"
    file.write_text(f'label = "a"\n[[field]]\nname = "item"\nkind = "categorical"\n[[field]]\nname = "x"\n{field}\n')
    with pytest.raises(InputError, match=said):
        Schema.from_toml(file)
