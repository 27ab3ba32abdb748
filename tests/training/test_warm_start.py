"""Warm starts: what is taken, in which order, and that nothing else changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.freezing.table import CodedEmbedding
from amtl_export.models.config import SelectionConfig
from amtl_export.models.ctr import BACKBONES, CtrModel
from amtl_export.models.ordered import OrderedEmbedding
from amtl_export.models.table import FieldTable
from amtl_export.training.batches import predict
from amtl_export.training.checkpoint import latest
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent
from amtl_export.training.order import as_read, in_principal_order, keeps_basis
from amtl_export.training.run import Run, build_model, load_run
from amtl_export.training.warm_start import open_start, warm_start
from amtl_export.training.working import partial_folder

Make = Callable[..., TrainConfig]
DATA = "synthetic:rows=2000,values=80,tags=6,history=3"


class Notes(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_train: Make) -> Run:
    """An FBE run of each backbone, with a multi-valued field and a sequence that shares the items' rows."""
    config = tiny_train(data=DATA, method="fbe", backbone=request.param, dim=8, epochs=2)
    return train(config, tmp_path_factory.mktemp("runs") / request.param)


def warmed(make: Make, earlier: Run, **changes: Any) -> TrainConfig:
    train = earlier.train
    same = {"data": train.data, "dim": train.dim, "backbone": train.backbone, "warm_start": str(earlier.path)}
    return make(**(same | changes))


def table(model: CtrModel) -> FieldTable:
    return next(module for module in model.embedding.modules() if isinstance(module, FieldTable))


def test_a_model_in_principal_order_answers_as_before(earlier: Run) -> None:
    ordered = in_principal_order(earlier)
    before, after = (predict(model, earlier.rows("test")) for model in (earlier.model, ordered.model))
    assert np.abs(before - after).max() < 2e-5
    assert ordered.difference < 2e-5
    assert not torch.equal(table(ordered.model).weight, table(earlier.model).weight)
    assert isinstance(ordered.model.embedding, OrderedEmbedding) == keeps_basis(earlier.train.backbone)
    for basis in ordered.bases.values():
        assert np.all(np.diff(basis.energies) <= 1e-9) or earlier.train.backbone == "deepfm"
        np.testing.assert_allclose(basis.encode @ basis.decode, np.eye(8), atol=1e-9)


def test_the_leading_numbers_are_those_that_matter(earlier: Run) -> None:
    """Cut to half its numbers, principal order answers nearer to the whole model than the table as trained."""
    ordered = in_principal_order(earlier)
    whole = predict(earlier.model, earlier.rows("test"))
    errors = []
    for model in (as_read(earlier), ordered.model):
        governed = [i for i, field in enumerate(model.config.embedded) if field.governed]
        with torch.no_grad():
            for i in governed:
                table(model).part(table(model).weight, i)[:, 4:] = 0
        errors.append(float(np.square(predict(model, earlier.rows("test")) - whole).mean()))
    assert errors[1] < errors[0] / 2


def test_amtl_starts_from_the_ordered_rows(tmp_path: Path, earlier: Run, tiny_train: Make) -> None:
    notes = Notes()
    run = train(warmed(tiny_train, earlier, epochs=0), tmp_path / "run", observer=notes)
    expected = in_principal_order(earlier).model
    assert torch.equal(table(run.model).weight, table(expected).weight)
    assert run.model_config.ordered == keeps_basis(earlier.train.backbone)
    ours, theirs = run.model.state_dict(), expected.state_dict()
    for name in theirs:
        if not name.endswith("table.weight"):
            assert torch.equal(ours[name], theirs[name]), name
    text = "\n".join(notes.lines)
    assert "warm start: principal order" in text
    assert "logits differ from the earlier run's by at most" in text
    assert "not taken: embedding" in text  # the selection networks, which an FBE run has none of


@pytest.mark.parametrize("changes", [{}, {"dim_budget": 0.4}, {"method": "aml", "select_on": "valid"}])
def test_a_run_in_principal_order_trains_and_freezes(
    tmp_path: Path, earlier: Run, tiny_train: Make, changes: dict[str, Any]
) -> None:
    run = load_run(train(warmed(tiny_train, earlier, epochs=1, **changes), tmp_path / "run").path)
    frozen = freeze(run)
    assert isinstance(frozen.ctr.embedding, CodedEmbedding) == keeps_basis(earlier.train.backbone)
    before, after = (predict(model, run.rows("test")) for model in (run.model, frozen.ctr))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert run.metrics["avg_dim_ratio"] <= changes.get("dim_budget", 1)
    if keeps_basis(earlier.train.backbone):  # bases train
        ours, theirs = (
            model.get_parameter("embedding.bases") for model in (run.model, in_principal_order(earlier).model)
        )
        assert not torch.equal(ours, theirs)


def test_an_interrupted_training_from_principal_order_ends_with_the_same_bits(
    tmp_path: Path, earlier: Run, tiny_train: Make
) -> None:
    config = warmed(tiny_train, earlier, epochs=2)
    whole = train(config, tmp_path / "whole")

    class Stop(Silent):
        def epoch_started(self, epoch: int, steps: int) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", observer=Stop())
    assert latest(partial_folder(tmp_path / "parts")) is not None
    parts = train(config, tmp_path / "parts")
    assert (parts.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_as_is_takes_the_rows_as_trained(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    run = train(warmed(tiny_train, fbe_run, epochs=0, warm_order="as-is"), tmp_path / "run")
    assert torch.equal(table(run.model).weight, table(fbe_run.model).weight)
    assert not run.model_config.ordered


@pytest.mark.parametrize("backbone", ["dnn", "dcnv2"])
def test_amtl_from_amtl_keeps_every_dim(tmp_path: Path, tiny_train: Make, backbone: str) -> None:
    fbe = train(tiny_train(method="fbe", backbone=backbone, epochs=1), tmp_path / "fbe")
    first = train(warmed(tiny_train, fbe, epochs=1), tmp_path / "first")
    notes = Notes()
    again = train(warmed(tiny_train, first, epochs=0), tmp_path / "again", observer=notes)
    assert torch.equal(again.model.method.frozen_dims(), first.model.method.frozen_dims())
    assert again.metrics["auc_test"] == first.metrics["auc_test"]
    assert any("amtl has chosen their order already" in line for line in notes.lines)
    assert not [line for line in notes.lines if "not taken" in line]
    turned = train(warmed(tiny_train, first, epochs=0, warm_order="principal"), tmp_path / "turned", observer=notes)
    assert turned.model_config.ordered == (backbone == "dcnv2")
    assert any("not taken: embedding" in line for line in notes.lines)  # the networks chose dims of another basis
    plain = train(warmed(tiny_train, first, epochs=0, method="fbe"), tmp_path / "plain")
    assert plain.metrics["auc_test"] == pytest.approx(first.metrics["auc_test"], abs=1e-6)


@pytest.mark.parametrize("method", ["mde", "autoemb"])
def test_mde_and_autoemb_take_hidden_layers_of_fbe(tmp_path: Path, fbe_run: Run, tiny_train: Make, method: str) -> None:
    notes = Notes()
    config = warmed(tiny_train, fbe_run, method=method, epochs=0, candidates=(1.0,))
    run = train(config, tmp_path / "run", observer=notes)
    ours, theirs = run.model.state_dict(), fbe_run.model.state_dict()
    backbone = [name for name in theirs if name.startswith("backbone.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in backbone)
    assert not torch.equal(table(run.model).weight, table(fbe_run.model).weight)
    assert f"{method} has rows of another kind than fbe" in "\n".join(notes.lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "mde", "dim_budget": 0.4},
        {"method": "cut", "dim_budget": 0.4},
        {"method": "autoemb"},
        {"method": "fbe"},
    ],
)
def test_a_method_continues_its_own_run(tmp_path: Path, tiny_train: Make, changes: dict[str, Any]) -> None:
    data = {"data": "synthetic:rows=4000,values=300,history=3", "backbone": "din"}
    first = train(tiny_train(**data, **changes, epochs=1), tmp_path / "first")
    notes = Notes()
    again = train(warmed(tiny_train, first, **changes, epochs=0), tmp_path / "again", observer=notes)
    assert again.metrics["auc_test"] == first.metrics["auc_test"]
    assert not [line for line in notes.lines if "not taken" in line]


def test_what_differs_is_not_taken_and_named(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    notes = Notes()
    train(warmed(tiny_train, fbe_run, method="fbe", epochs=0, hidden=(16, 4)), tmp_path / "run", observer=notes)
    (line,) = [line for line in notes.lines if "not taken" in line and "(8,) there, (4,) here" in line]
    assert "backbone.layers" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"warm_order": "principal"},
        {"warm_order": "as-is", "warm_start": "run", "method": "fbe"},
        {"warm_order": "sideways", "warm_start": "run"},
        {"select_on": "valid", "method": "mde"},
        {"select_on": "test"},
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny_train: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        tiny_train(**changes)


def test_a_budgeted_selection_begins_at_the_dims_of_least_damage(
    tmp_path: Path, fbe_run: Run, tiny_train: Make
) -> None:
    notes = Notes()
    run = train(warmed(tiny_train, fbe_run, epochs=0, dim_budget=0.4), tmp_path / "run", observer=notes)
    lines = [line for line in notes.lines if "the selection begins near" in line]
    assert [line.split(": ")[1] for line in lines] == ["user", "item"]
    assert 0.2 < run.metrics["avg_dim_ratio"] < 0.6
    given = SelectionConfig(initial_ratio=0.9)
    own = train(warmed(tiny_train, fbe_run, epochs=0, dim_budget=0.4, selection=given), tmp_path / "own")
    assert own.metrics["avg_dim_ratio"] > 0.7  # what is asked for is what happens


def test_bases_that_a_model_keeps_are_of_the_fields_that_it_governs(tmp_path: Path, tiny_train: Make) -> None:
    fbe = train(tiny_train(method="fbe", backbone="dcnv2", epochs=1), tmp_path / "fbe")
    start = open_start(warmed(tiny_train, fbe))
    assert start is not None
    fewer = tuple(replace(field, governed=field.name == "user") for field in fbe.model_config.embedded)
    config = start.fit(replace(fbe.model_config, method="amtl", embedded=fewer))
    with pytest.raises(InputError, match=r"those differ\n.*\n  found: user, item\n  allowed: user"):
        warm_start(build_model(config, fbe.vocabularies), fbe.vocabularies, start)


def test_the_least_budget_is_one_dim_an_id(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    run = train(warmed(tiny_train, fbe_run, epochs=0, dim_budget=1 / 12), tmp_path / "run")
    assert run.metrics["avg_dim"] >= 1
