"""What a compressed model is judged by, and names and lengths that are easily got wrong."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.export import export
from amtl_export.compression.compress import compress
from amtl_export.errors import InputError
from amtl_export.freezing.folder import load_frozen, save_frozen
from amtl_export.freezing.frozen import freeze
from amtl_export.metrics import auc
from amtl_export.principal.dims import Rows, dims_at
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate

FACTORY = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, ids):
        return self.out(self.table(ids)).squeeze(-1)


def build():
    torch.manual_seed(0)
    return Mine().eval(), {"ids": torch.arange(20)}
"""


def test_a_frozen_folder_of_a_module_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "judged_model.py").write_text(FACTORY)
    source = f"{tmp_path / 'judged_model.py'}:build"
    save_frozen(freeze(source), tmp_path / "frozen")
    save_frozen(compress(tmp_path / "frozen", dim_budget=0.5), tmp_path / "small")
    save_frozen(compress(tmp_path / "small", dim_budget=0.25), tmp_path / "smaller")
    for name in ("small", "smaller"):
        opened = load_frozen(tmp_path / name)
        assert opened.compressed is not None
        assert opened.compressed.original is not None
        wanted = {"small": "frozen", "smaller": "small"}[name]
        assert opened.compressed.original.source == str((tmp_path / wanted).resolve())


def test_another_run_in_its_place_is_not_the_one(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    first, second = (train(tiny_train(method="fbe", seed=seed), tmp_path / f"run{seed}") for seed in (0, 1))
    save_frozen(compress(first.path, dim_budget=0.3), tmp_path / "small")
    assert load_frozen(tmp_path / "small").labelled is not None
    shutil.copy(second.path / "model.safetensors", first.path / "model.safetensors")
    opened = load_frozen(tmp_path / "small")
    assert opened.compressed is not None
    assert (opened.compressed.original, opened.labelled) == (None, None)


def test_a_drop_that_nothing_keeps(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(method="fbe"), tmp_path / "run")
    frozen = freeze(run)
    assert frozen.labelled is not None
    pairs = list(frozen.labelled("valid"))
    scores = [frozen.answers(feed)["logit"] for feed, _ in pairs]
    middle = float(np.median(np.concatenate(scores)))
    given = [(feed, (score > middle).astype(float)) for (feed, _), score in zip(pairs, scores, strict=True)]
    with pytest.raises(InputError, match=r"(?s)nothing costs as little AUC.*larger max_auc_drop"):
        compress(frozen, max_auc_drop=0.0, dtype="int4", batches=given)  # the AUC before is 1


def test_weights_judge_what_is_compressed(tmp_path: Path, weighted_run: Run) -> None:
    small = compress(weighted_run.path, dim_budget=0.4)
    assert small.compressed is not None
    assert small.compressed.report["weighted"] is True
    assert small.compressed.report["auc_valid_before"] == pytest.approx(weighted_run.metrics["auc_valid"], abs=1e-12)
    save_frozen(small, tmp_path / "small")
    opened = load_frozen(tmp_path / "small")
    assert opened.weighted
    bundle = export(opened, tmp_path / "bundle")
    verdict = validate(bundle.path, tmp_path / "small", split="valid")
    assert verdict.problems == []
    assert verdict.weighted
    assert verdict.auc_original == pytest.approx(weighted_run.metrics["auc_valid"], abs=1e-12)
    assert verdict.auc_torch == pytest.approx(small.compressed.report["auc_valid_after"], abs=1e-6)
    assert verdict.gauc_groups == weighted_run.metrics["gauc_groups_valid"]


def test_batches_that_are_given_have_no_weights_and_it_is_said(weighted_run: Run) -> None:
    frozen, notes = freeze(weighted_run), list[str]()
    assert frozen.labelled is not None
    given = list(frozen.labelled("valid"))
    small = compress(frozen, dim_budget=0.4, batches=given, note=notes.append)
    assert small.compressed is not None
    rows = weighted_run.rows("valid")
    plain = auc(predict(weighted_run.model, rows)[:, 0], rows.label)
    assert small.compressed.report["weighted"] is False
    assert small.compressed.report["auc_valid_before"] == pytest.approx(plain, abs=1e-12)
    assert plain != pytest.approx(weighted_run.metrics["auc_valid"], abs=1e-6)
    assert any("have no weights" in note for note in notes)
    assert small.weighted  # what is validated later is the run's own split


class Named(nn.Module):
    """Tables whose names have what metadata could trip over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleDict({"user id": nn.Embedding(20, 8), "item; id": nn.Embedding(30, 8)})
        self.out = nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        rows = [self.tables["user id"](user), self.tables["item; id"](item)]
        score: Tensor = self.out(torch.cat(rows, dim=1)).squeeze(-1)
        return score


def test_names_with_spaces(tmp_path: Path) -> None:
    ids = torch.arange(20)
    small = compress(freeze(Named().eval(), example={"user": ids, "item": ids}), dim_budget=0.5)
    bundle = export(small, tmp_path / "bundle")
    assert validate(bundle.path, small).problems == []


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_dims_are_the_best_up_to_the_longest(longest: int) -> None:
    """Energies that do not fall: a number behind the longest is no reason to keep those before it."""
    numbers = np.array(list(itertools.product([0.1, 1.0, 3.0], repeat=5)), dtype=np.float32)
    rows = Rows(numbers, np.ones(len(numbers)), np.ones(5), np.full(len(numbers), longest))
    (dims,) = dims_at([rows], 1.0)
    energy = np.square(numbers.astype(np.float64))
    costs = np.array([k - energy[:, :k].sum(axis=1) for k in range(1, longest + 1)])
    assert (costs[dims - 1, np.arange(len(dims))] <= costs.min(axis=0) + 1e-9).all()
    assert dims.max() <= longest
