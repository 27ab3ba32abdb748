"""Compressing runs: what is reported is so, and what cannot be done is said."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reports import check_report, report_of

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.coding import trial_model
from amtl_export.compression.compress import compress
from amtl_export.compression.cuts import Cuts
from amtl_export.compression.search import DEFAULT_DROP
from amtl_export.compression.uncut import Uncut
from amtl_export.data.named.synthetic import usable_rank
from amtl_export.errors import InputError
from amtl_export.freezing.folder import load_frozen, save_frozen
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate

#: Each backbone and each method once; where the bases go in such a model.
PAIRS = {
    "dnn-amtl": "folded",
    "widedeep-aml": "folded",
    "deepfm-fbe": "folded or shared",
    "dcnv2-mde": "projection",
    "autoint-autoemb": "projection",
    "din-cut": "projection or folded",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Callable[[str], Run]:
    """A small run of a backbone and a method, trained once."""
    runs: dict[str, Run] = {}

    def make(pair: str) -> Run:
        if pair not in runs:
            backbone, method = pair.split("-")
            data = f"synthetic:rows=1500,values=60,rank=4,tags=9,history={3 if backbone == 'din' else 0}"
            more = {"dim_budget": 0.5} if method == "cut" else {}
            config = tiny_train(data=data, dim=8, epochs=1, backbone=backbone, method=method, **more)
            runs[pair] = train(config, tmp_path_factory.mktemp("pairs") / pair)
        return runs[pair]

    return make


def same_model(a: FrozenModel, b: FrozenModel) -> None:
    """Two models with the same bits."""
    one, two = (model.module.model.state_dict() for model in (a, b))
    assert set(one) == set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {path: table.basis_of for path, table in a.coded.items()} == {p: t.basis_of for p, t in b.coded.items()}
    for name, values in a.answers(a.example).items():
        np.testing.assert_array_equal(b.answers(a.example)[name], values)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_backbone_and_method(trained: Callable[[str], Run], tmp_path: Path, pair: str) -> None:
    run = trained(pair)
    original = freeze(run)
    model = compress(run, dim_budget=0.3)
    report = report_of(model)
    assert {own["basis"] for own in report["fields"].values()} <= set(PAIRS[pair].split(" or "))
    assert {own["metric"] for own in report["fields"].values()} == {"gradients"}
    assert report["avg_dim_ratio"] <= 0.3
    assert set(report["fields"]) | set(report["left"]) >= {"user", "item", "segment", "tags"}
    check_report(model, original)
    save_frozen(model, tmp_path / "compressed")
    again = load_frozen(tmp_path / "compressed")
    same_model(model, again)
    assert report_of(again) == report
    bundle = export(again, tmp_path / "bundle", ExportConfig(target="portable"))
    verdict = validate(bundle.path, tmp_path / "compressed", split="valid")
    assert verdict.problems == []
    assert verdict.auc_original == pytest.approx(report["auc_valid_before"], abs=1e-12)
    assert verdict.delta_auc_original == pytest.approx((verdict.auc_onnx or 0) - (verdict.auc_original or 0))


def test_the_smallest_table_that_a_drop_allows(trained: Callable[[str], Run]) -> None:
    run = trained("deepfm-fbe")
    models = {drop: compress(run, max_auc_drop=drop) for drop in (0.0, 0.9)}
    reports = {drop: report_of(model) for drop, model in models.items()}
    for drop, report in reports.items():
        assert report["auc_valid_before"] - report["auc_valid_after"] <= drop
        assert (report["max_auc_drop"], report["dim_budget"]) == (drop, None)
        check_report(models[drop], freeze(run))
        allowed = [p for p in report["curve"] if report["auc_valid_before"] - p["auc_valid"] <= drop]
        assert report["bytes_after"] <= min(point["bytes"] for point in allowed) * 1.05
    assert reports[0.9]["bytes_after"] < reports[0.0]["bytes_after"]
    assert reports[0.9]["avg_dim_ratio"] == pytest.approx(1 / 8)
    assert DEFAULT_DROP == 1e-4


def test_compressed_again(trained: Callable[[str], Run], tmp_path: Path) -> None:
    first = compress(trained("dcnv2-mde"), dim_budget=0.5)
    second = compress(first, dim_budget=0.5)
    for name in report_of(first)["fields"]:  # what is there needs no more numbers than it had
        before, after = first.field_dims(name).numpy(), second.field_dims(name).numpy()
        assert after.sum() <= before.sum() * 1.2
        assert ((before > 0) == (after > 0)).all()
    save_frozen(first, tmp_path / "first")
    third = compress(tmp_path / "first", dim_budget=0.2)
    check_report(third, load_frozen(tmp_path / "first"))
    save_frozen(third, tmp_path / "third")
    same_model(third, load_frozen(tmp_path / "third"))
    bundle = export(tmp_path / "third", tmp_path / "bundle")
    assert validate(bundle.path, tmp_path / "third", split="valid").problems == []


def test_moved_together_and_alone(trained: Callable[[str], Run], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copytree(trained("dnn-amtl").path, tmp_path / "a" / "run")
    model = compress(tmp_path / "a" / "run", dim_budget=0.3)
    save_frozen(model, tmp_path / "a" / "small")
    export(model, tmp_path / "bundle", ExportConfig("dense"))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_frozen(tmp_path / "b" / "small")
    same_model(model, moved)
    assert moved.compressed is not None
    assert moved.compressed.original is not None
    assert moved.compressed.original.source == str(tmp_path / "b" / "run")
    shutil.rmtree(tmp_path / "b" / "run")
    alone = load_frozen(tmp_path / "b" / "small")
    same_model(model, alone)
    verdict = validate(tmp_path / "bundle", tmp_path / "b" / "small")
    assert (verdict.problems, verdict.auc_original) == ([], None)
    assert any("not where it was" in note for note in verdict.notes)


def test_files_that_were_spoiled(trained: Callable[[str], Run], tmp_path: Path) -> None:
    save_frozen(compress(trained("dnn-amtl"), dim_budget=0.3), tmp_path / "small")
    settings = (tmp_path / "small" / "compressed.json").read_text()
    for spoiled in (settings[: len(settings) // 2], "{}", settings.replace('"bases"', '"other"')):
        (tmp_path / "small" / "compressed.json").write_text(spoiled)
        with pytest.raises(InputError):
            load_frozen(tmp_path / "small")


def test_requests_of_a_run_that_are_given(trained: Callable[[str], Run]) -> None:
    run = trained("dnn-amtl")
    frozen = freeze(run)
    assert frozen.labelled is not None
    given = [(feed, None) for feed, _ in frozen.labelled("valid")]
    report = report_of(compress(frozen, dim_budget=0.3, batches=given))
    labelled = report_of(compress(frozen, dim_budget=0.3))
    assert report["auc_valid_before"] is None
    assert {n: f["avg_dim"] for n, f in report["fields"].items()} == {
        n: f["avg_dim"] for n, f in labelled["fields"].items()
    }
    every = report_of(compress(frozen, dim_budget=0.3, all_fields=True))
    assert set(every["fields"]) == set(report["fields"]) | {"segment", "tags"}


FACTORY = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.item, self.user, self.out = nn.Embedding(40, 8), nn.Embedding(40, 8), nn.Linear(8, 1)

    def forward(self, item, user):
        return (self.item(item) * self.user(user)).sum(1) + self.out(self.item(item)).squeeze(1)


def build():
    torch.manual_seed(0)
    ids = {"item": torch.randint(0, 40, (64,)), "user": torch.randint(0, 40, (64,))}
    return Mine(), ids


def labelled():
    model, ids = build()
    return model, ids, [(ids, torch.arange(64) % 2)] * 2
"""


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "compressed_model.py"
    file.write_text(FACTORY)
    yield str(file)
    for name in [name for name in sys.modules if "compressed_model" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("function", ["build", "labelled"])
def test_a_module_from_its_factory(tmp_path: Path, factory: str, function: str) -> None:
    model = compress(f"{factory}:{function}", dim_budget=0.5)
    save_frozen(model, tmp_path / "small")
    again = load_frozen(tmp_path / "small")
    same_model(model, again)
    bundle = export(tmp_path / "small", tmp_path / "bundle")
    verdict = validate(bundle.path, tmp_path / "small")
    assert verdict.problems == []
    assert (verdict.auc_original is None) == (function == "build")
    wrong = validate(bundle.path, f"{factory}:{function}")
    assert wrong.verdict == "fail"


def test_the_source_is_not_written_over(trained: Callable[[str], Run], tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("dnn-amtl").path, tmp_path / "run"))
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    model = compress(run, dim_budget=0.3)
    for out in (run, run / "small", tmp_path):
        with pytest.raises(InputError):
            save_frozen(model, out, overwrite=True)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    save_frozen(model, tmp_path / "small")
    again = compress(tmp_path / "small", dim_budget=0.2)
    for out in (run, tmp_path / "small"):
        with pytest.raises(InputError, match="holds what is read"):
            save_frozen(again, out, overwrite=True)
    same_model(load_frozen(tmp_path / "small"), model)


def test_nothing_is_left_of_what_fails(trained: Callable[[str], Run], tmp_path: Path) -> None:
    model = compress(trained("dnn-amtl"), dim_budget=0.3)
    spoiled = FrozenModel(**{**vars(model), "origin": {"run": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        save_frozen(spoiled, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_dims_follow_the_planted_rank(tmp_path: Path) -> None:
    data = "synthetic:rows=40000,values=120,rank=8,tags=0,exponent=80"
    run = train(TrainConfig(data=data, method="fbe", dim=16, epochs=3, hidden=(32,)), tmp_path / "run")
    model = compress(run, dim_budget=0.25)
    for name in ("user", "item"):
        values = run.vocabularies[name].values
        planted = usable_rank((values.to_numpy() - 1000) // 7, 120, 8)  # as the source writes values
        dims = model.field_dims(name).numpy()[2:]
        assert len(dims) > 100
        assert spearman(planted, dims) >= 0.5
        assert report_of(model)["fields"][name]["effective_rank"] < 12


def spearman(a: Any, b: Any) -> float:
    """Rank correlation, ties sharing their mean rank."""
    ranks = [np.array([(own < value).sum() + ((own == value).sum() - 1) / 2 for value in own]) for own in (a, b)]
    return float(np.corrcoef(np.stack(ranks))[0, 1])


SCHEMA = """
label = "y"
[split]
rule = "random"
[[field]]
name = "a"
kind = "categorical"
type = "int64"
[[field]]
name = "b"
kind = "categorical"
type = "int64"
governed = false
dim = 2
"""


def test_a_field_that_is_left_as_it_is_keeps_its_rows_in_a_shared_basis(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig]
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 60, 3000), rng.integers(0, 20, 3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(-np.sin(a) - np.cos(b)))).astype(int)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "schema.toml").write_text(SCHEMA)
    lines = [f"{i},{j},{k}" for i, j, k in zip(a, b, y, strict=True)]
    (tmp_path / "data" / "rows.csv").write_text("\n".join(["a,b,y", *lines]) + "\n")
    run = train(tiny_train(data=str(tmp_path / "data"), method="fbe", backbone="deepfm", dim=8), tmp_path / "run")
    work = Uncut(freeze(run), fold(freeze(run)), False, False, print)
    cuts = Cuts(work, "shared")
    feed, whole = work.original.example, work.whole
    expected = work.original.answers(feed)["logit"]
    for model in (cuts.model(whole), trial_model(work.plain, cuts.coded, whole)):
        np.testing.assert_allclose(model.answers(feed)["logit"], expected, atol=1e-5)
