"""Several labels of one row: a logit, a probability and an AUC each, from schema.toml to the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.data.catalog import open_source
from amtl_export.data.describe import describe
from amtl_export.data.schema import Schema
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.metrics import auc
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField
from amtl_export.models.ctr import BACKBONES, CtrModel
from amtl_export.principal.gradients import gradient_metrics
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.source.source import Source
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Verdict

TOML = """
label = { click = "act >= 1", buy = "act = 2" }
[[field]]
name = "user"
kind = "categorical"
type = "int64"
[[field]]
name = "item"
kind = "categorical"
type = "int64"
[[field]]
name = "seen"
kind = "sequence"
of = "item"
type = "int64"
[[field]]
name = "age"
kind = "numeric"
"""

OUTPUTS = {"logit_click", "probability_click", "logit_buy", "probability_buy"}
Train = Callable[..., TrainConfig]


def write(folder: Path, rows: int = 3000) -> Path:
    """Users who click, and items that are bought once clicked."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 80, rows), rng.zipf(1.6, rows) % 60
    warmth, worth = rng.normal(size=80), rng.normal(size=60)
    click = rng.random(rows) < 1 / (1 + np.exp(-2 * warmth[user]))
    buy = click & (rng.random(rows) < 1 / (1 + np.exp(-3 * worth[item])))
    seen = ["|".join(map(str, rng.integers(0, 60, n))) for n in rng.integers(0, 4, rows)]
    folder.mkdir()
    frame = pl.DataFrame({"user": user, "item": item, "seen": seen, "age": rng.normal(40, 9, rows)})
    frame.with_columns(act=pl.Series(click.astype(int) + buy)).write_csv(folder / "rows.csv")
    (folder / "schema.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("labels") / "data")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_train: Train) -> Run:
    config = tiny_train(data=str(data), batch_size=64, epochs=3)
    return train(config, tmp_path_factory.mktemp("labels") / "run")


def passed(verdict: Verdict) -> Verdict:
    assert verdict.verdict == "pass", verdict.problems
    assert list(verdict.outputs) == ["logit_click", "logit_buy"]
    assert verdict.auc_torch == verdict.outputs["logit_click"].auc_torch
    assert all((own.abs_delta_auc or 0) <= 1e-4 for own in verdict.outputs.values())
    return verdict


def test_metrics_have_each_label(trained: Run, data: Path) -> None:
    test = trained.rows("test")
    assert test.labels.shape == (len(test), 2)
    assert (test.labels[:, 1] <= test.labels[:, 0]).all()  # what is bought was clicked
    assert test.labels[:, 0].mean() > test.labels[:, 1].mean() > 0
    logits = predict(trained.model, test)
    found = trained.metrics["labels"]
    assert list(found) == ["click", "buy"]
    for column, name in enumerate(found):
        assert found[name]["auc_test"] == auc(logits[:, column], test.labels[:, column]) > 0.6
        assert {"auc_valid", "logloss_valid", "logloss_test"} <= set(found[name])
    assert trained.metrics["auc_test"] == found["click"]["auc_test"]
    best = trained.history()[trained.metrics["best_epoch"] - 1]["labels"]
    means = [np.mean([own["auc_valid"] for own in record["labels"].values()]) for record in trained.history()]
    assert np.mean([own["auc_valid"] for own in best.values()]) == max(means)
    summary = describe(open_source(str(data))).to_json()
    assert list(summary["label_rates"]) == ["click", "buy"]
    assert summary["label_rate"] == summary["label_rates"]["click"] > summary["label_rates"]["buy"] > 0


@pytest.mark.parametrize("layout", ["dense", "paged", "blocks", "ragged"])
def test_every_layout_is_proven_for_each_label(trained: Run, tmp_path: Path, layout: Any) -> None:
    bundle = export(freeze(trained), tmp_path / "bundle", ExportConfig(layout))
    verdict = passed(validate(bundle.path, trained))
    assert verdict.raw_rows_equal == verdict.raw_rows_checked
    assert {spec.name for spec in bundle.signature.outputs} == OUTPUTS
    assert bundle.signature.scores == ("logit_click", "logit_buy")
    answers = load(bundle.path).predict(freeze(trained).example)
    assert set(answers) == OUTPUTS
    for name in ("click", "buy"):
        expected = 1 / (1 + np.exp(-answers[f"logit_{name}"].astype(np.float64)))
        np.testing.assert_allclose(answers[f"probability_{name}"], expected, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone(data: Path, tmp_path: Path, tiny_train: Train, backbone: str) -> None:
    run = train(tiny_train(data=str(data), backbone=backbone, epochs=1, limit_rows=1500), tmp_path / "run")
    config = ExportConfig("ragged", dtype="int8") if backbone == "deepfm" else None
    passed(validate(export(freeze(run), tmp_path / "bundle", config).path, run))


@pytest.mark.parametrize("method", ["mde", "autoemb", "fbe"])
def test_other_methods(data: Path, tmp_path: Path, tiny_train: Train, method: str) -> None:
    run = train(tiny_train(data=str(data), method=method, epochs=1, limit_rows=1500), tmp_path / "run")
    passed(validate(export(freeze(run), tmp_path / "bundle").path, run))


def test_compressing_costs_no_label_more_than_allowed(trained: Run, tmp_path: Path) -> None:
    allowed = 0.002
    model = compress(trained, max_auc_drop=allowed)
    assert model.compressed is not None
    outputs = model.compressed.report["outputs"]
    assert list(outputs) == ["logit_click", "logit_buy"]
    drops = [own["auc_valid_before"] - own["auc_valid_after"] for own in outputs.values()]
    assert max(drops) <= allowed
    assert model.compressed.report["auc_valid_after"] == outputs["logit_click"]["auc_valid_after"]
    (chosen,) = (point for point in model.compressed.report["curve"] if point["chosen"])
    assert model.compressed.report["auc_valid_before"] - chosen["auc_valid"] == pytest.approx(max(drops), abs=1e-12)
    assert model.compressed.report["bytes_after"] < 0.8 * model.compressed.report["bytes_before"]
    verdict = passed(validate(export(model, tmp_path / "bundle").path, model, split="valid"))
    assert all(own.auc_original is not None for own in verdict.outputs.values())


def test_a_tampered_second_output_fails(trained: Run, tmp_path: Path) -> None:
    """Its weights, by a model that differs in them alone."""
    other = freeze(trained)
    bundle = export(other, tmp_path / "bundle", ExportConfig("dense"))
    with torch.no_grad():
        trained.model.get_parameter("backbone.layers.7.weight")[1] *= -1
    try:
        verdict = validate(bundle.path, trained)
    finally:
        with torch.no_grad():
            trained.model.get_parameter("backbone.layers.7.weight")[1] *= -1
    assert verdict.verdict == "fail"
    assert any(problem.startswith("logit_buy: AUC differs") for problem in verdict.problems)
    assert not any(problem.startswith("logit_click") for problem in verdict.problems)


def test_a_package_serves_each_label(trained: Run, tmp_path: Path) -> None:
    bundle = export(freeze(trained), tmp_path / "bundle")
    package(bundle.path, tmp_path / "repository", "ctr", PackageConfig(raw_features=True))
    config = (tmp_path / "repository" / "ctr" / "config.pbtxt").read_text()
    assert all(f'"{name}"' in config for name in OUTPUTS)


def test_gradients_count_each_label_alone() -> None:
    """G = Σ over labels, and no product of one label's gradient with another's."""
    fields = tuple(EmbeddedField(name, 7) for name in "ab")
    torch.manual_seed(0)
    counts = [torch.arange(7) + 1] * 2
    two = CtrModel(ModelConfig(fields, (NumericField("x"),), 4, "fbe", hidden=(5,), labels=("a", "b")), counts).eval()
    inputs = torch.randint(0, 7, (20, 2)), torch.randn(20, 1), ()
    found = gradient_metrics(two, [inputs])
    alone = []
    for label in range(2):
        one = CtrModel(ModelConfig(fields, (NumericField("x"),), 4, "fbe", hidden=(5,)), counts).eval()
        state = two.state_dict()
        for key in ("backbone.layers.4.weight", "backbone.layers.4.bias"):
            state[key] = state[key][label : label + 1]
        one.load_state_dict(state)
        alone.append(gradient_metrics(one, [inputs]))
    for whole, first, second in zip(found, *alone, strict=True):
        np.testing.assert_allclose(whole, first + second, rtol=1e-6)


class TwoTasks(torch.nn.Module):
    """A user's model: one table, two towers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.items = torch.nn.Embedding(50, 8)
        self.towers = torch.nn.ModuleList(torch.nn.Linear(16, 1) for _ in range(2))

    def forward(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = self.items(items).flatten(1)
        return {name: tower(rows).sigmoid().squeeze(1) for name, tower in zip(("ctr", "cvr"), self.towers, strict=True)}


def batches() -> Iterator[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(0)
    model = TwoTasks()
    for _ in range(3):
        items = torch.randint(0, 50, (200, 2), generator=generator)
        with torch.no_grad():
            answers = model(items)
        yield items, {name: torch.bernoulli(own, generator=generator) for name, own in answers.items()}


def test_outputs_of_a_users_module(tmp_path: Path) -> None:
    source = Source(TwoTasks(), torch.zeros(2, 2, dtype=torch.int64), batches=batches, score=["cvr", "ctr"])
    bundle = export(freeze(source), tmp_path / "bundle", ExportConfig("dense"))
    verdict = validate(bundle.path, source)
    assert verdict.verdict == "pass", verdict.problems
    assert list(verdict.outputs) == ["cvr", "ctr"]
    assert all(own.auc_onnx is not None and own.auc_onnx > 0.52 for own in verdict.outputs.values())
    assert verdict.auc_torch == verdict.outputs["cvr"].auc_torch
    report = compress(source, max_auc_drop=0.01).compressed
    assert report is not None
    assert set(report.report["outputs"]) == {"ctr", "cvr"}


def test_labels_of_outputs_that_are_not_scored_are_refused(tmp_path: Path) -> None:
    example = torch.zeros(2, 2, dtype=torch.int64)
    bundle = export(freeze(Source(TwoTasks(), example)), tmp_path / "bundle", ExportConfig("dense"))
    problems = validate(bundle.path, Source(TwoTasks(), example, batches=batches)).problems
    assert any("ctr, cvr" in problem and "score=[…]" in problem for problem in problems)
    with pytest.raises(InputError, match="no such output"):
        freeze(Source(TwoTasks(), example, batches=batches, score=["ctr", "other"]))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ('label = { click = "a" }', "at least two labels"),
        ('label = { click = "a", "1x" = "b" }', "'1x' cannot name a label"),
        ('label = { click = "a", buy = "" }', "buy = '' is neither"),
        ('label = { click = "a", buy = 3 }', "buy = 3 is neither"),
        ("label = 3", "neither a column"),
        ('label = ""', "is empty"),
        ('label = { click = "a", buy = "b >" }', "label is not a column or SQL expression"),
        ('label = { click = "a", x = "b" }\nfield = [{name = "logit_x", kind = "categorical"}]', "logit_x"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, label: str, said: str) -> None:
    file = tmp_path / "schema.toml"
    more = "" if "field" in label else '\n[[field]]\nname = "f"\nkind = "categorical"\n'
    file.write_text(label + more)
    with pytest.raises(InputError, match=r"label|field") as raised:
        Schema.from_toml(file)
    assert said in str(raised.value)


def test_a_split_without_a_class_of_one_label_is_refused(tmp_path: Path, tiny_train: Train) -> None:
    data = write(tmp_path / "data", 300)
    rows = pl.read_csv(data / "rows.csv").with_columns(act=pl.col("act").clip(0, 1))
    rows.write_csv(data / "rows.csv")
    with pytest.raises(InputError, match="0 positive by label buy"):
        train(tiny_train(data=str(data)), tmp_path / "run")


def test_a_bad_value_names_its_label(tmp_path: Path, tiny_train: Train) -> None:
    data = write(tmp_path / "data", 300)
    text = (data / "schema.toml").read_text().replace('buy = "act = 2"', 'buy = "act"')
    (data / "schema.toml").write_text(text)
    with pytest.raises(InputError, match="label buy 'act'"):
        train(tiny_train(data=str(data)), tmp_path / "run")
