"""Compressing users' modules, and batches, labels and rows that are odd."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reports import check_report, report_of
from torch import Tensor, nn

from amtl_export import attach
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.source.source import Source
from amtl_export.validation.validate import validate

V, D = 30, 8


class Pair(nn.Module):
    """Two tables and a layer."""

    def __init__(self, dim: int = D) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(V, dim), nn.Embedding(V, dim, padding_idx=0)
        self.hidden, self.out = nn.Linear(2 * dim, 6), nn.Linear(6, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(torch.cat([self.user(user), self.item(item)], dim=1)))
        score: Tensor = self.out(hidden).squeeze(1)
        return score


def requests(rows: int = 40, seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, V, (rows,), generator=drawn) for name in ("user", "item")}


def clicks(module: nn.Module, batches: int = 4) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Requests, and labels that the module's own scores make likely."""
    made = [requests(seed=seed) for seed in range(1, batches + 1)]
    with torch.no_grad():
        return [(inputs, (module.eval()(**inputs) + 0.1 * torch.randn(40) > 0).long()) for inputs in made]


def test_without_labels_the_layers_say_what_matters() -> None:
    module = Pair().eval()
    with torch.no_grad():
        module.hidden.weight[:, 2:D] = 0  # the layer does not read these numbers of a user
    model = compress(freeze(module, example=requests()), dim_budget=0.5)
    report = report_of(model)
    assert {own["metric"] for own in report["fields"].values()} == {"weights"}
    assert report["fields"]["user"]["energy"][1] > 0.99
    assert report["fields"]["item"]["energy"][1] < 0.9
    assert report["fields"]["user"]["avg_dim"] < 3 < report["fields"]["item"]["avg_dim"]
    assert (report["requests"], report["auc_valid_before"], report["auc_valid_after"]) == (0, None, None)
    with pytest.raises(InputError, match=r"(?s)needs labelled examples.*batches=.*dim_budget"):
        compress(freeze(module, example=requests()), max_auc_drop=0.01)
    with pytest.raises(InputError, match="needs labelled examples"):
        compress(freeze(module, example=requests()))


def test_batches_that_are_given() -> None:
    module = Pair()
    frozen = freeze(module.eval(), example=requests())
    given = clicks(module)
    expected = report_of(compress(frozen, dim_budget=0.4, batches=given))
    assert expected["requests"] == 160
    assert expected["auc_valid_before"] > 0.9
    assert report_of(compress(frozen, dim_budget=0.4, batches=iter(given))) == expected
    unlabelled = report_of(compress(frozen, dim_budget=0.4, batches=[(inputs, None) for inputs, _ in given]))
    assert (unlabelled["requests"], unlabelled["auc_valid_before"]) == (160, None)
    energies = [{name: own["energy"] for name, own in r["fields"].items()} for r in (unlabelled, expected)]
    assert energies[0] == energies[1]
    with pytest.raises(InputError, match="labels are alike"):
        compress(frozen, max_auc_drop=0.1, batches=[(inputs, None) for inputs, _ in given])
    with pytest.raises(InputError, match=r"(?s)some batches have labels.*batch 1"):
        compress(frozen, dim_budget=0.4, batches=[given[0], (given[1][0], None)])


def test_batches_that_are_others_each_time() -> None:
    module = Pair().eval()
    frozen = freeze(module, example=requests())
    given = clicks(module)
    turn = iter(range(99))
    with pytest.raises(InputError, match=r"(?s)not the same when they are gone through again.*an AUC of .*, and then"):
        compress(frozen, max_auc_drop=0.2, batches=lambda: given[next(turn) % 4 :][:1])
    orders = iter([given, *([given[::-1], given] * 99)])
    assert report_of(compress(frozen, max_auc_drop=0.2, batches=lambda: next(orders)))["auc_valid_before"] > 0.9
    assert report_of(compress(frozen, dim_budget=0.5, batches=lambda: given[next(turn) % 4 :][:1]))["requests"] == 40


class EveryItem(Pair):
    """Scores of all items: `[B, V]`."""

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        scores: Tensor = (self.user(user) + self.item(item)) @ self.item.weight.T
        return scores


class Bag(nn.Module):
    """Values with offsets: more values than examples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag, self.out = nn.EmbeddingBag(V, D, mode="sum", include_last_offset=True), nn.Linear(D, 1)

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        score: Tensor = self.out(self.bag(values, offsets)).squeeze(1)
        return score


@pytest.mark.parametrize("module", [EveryItem, Bag])
def test_requests_that_are_not_one_score_each(module: type[nn.Module], tmp_path: Path) -> None:
    values = {"values": torch.arange(20), "offsets": torch.tensor([0, 3, 4, 20])}
    inputs = requests() if module is EveryItem else values
    model = compress(freeze(module().eval(), example=inputs), dim_budget=0.4, batches=[(inputs, None)])
    assert report_of(model)["auc_valid_before"] is None
    assert {own["metric"] for own in report_of(model)["fields"].values()} == {"gradients"}
    assert validate(export(model, tmp_path / "bundle").path, model).problems == []


class PassedOver(Pair):
    """Embeddings that stay what they are, beside two that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.loud = nn.Embedding(V, D, max_norm=1.0)
        self.top = nn.EmbeddingBag(V, D, mode="max")
        self.normed = nn.utils.parametrizations.weight_norm(nn.Embedding(V, D))
        self.rows, self.planes = nn.Parameter(torch.randn(V, D)), nn.Parameter(torch.randn(2, V, D))
        self.register_buffer("fixed", torch.randn(V, D))
        self.unregistered = {"more": [nn.Embedding(V, D).requires_grad_(False)]}

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        others = self.loud(user) + self.top(item[:, None]) + self.normed(user) + self.rows[item]
        others += (
            self.planes[1][user] + F.embedding(item, self.get_buffer("fixed")) + self.unregistered["more"][0](user)
        )
        scores: Tensor = super().forward(user, item) + others.sum(dim=1)
        return scores[torch.arange(user.shape[0])]


def test_embeddings_that_stay_what_they_are_are_named(caplog: pytest.LogCaptureFixture) -> None:
    frozen = freeze(PassedOver().eval(), example=requests())
    report = report_of(compress(frozen, dim_budget=0.5))
    assert set(report["fields"]) == {"user", "item"}
    assert report_of(compress(replace(frozen, trained=None), dim_budget=0.5))["left"] == report["left"]
    no_embedding = "no nn.Embedding holds it: nn.Embedding.from_pretrained makes a table of it"
    assert report["left"] == {
        "loud": "max_norm rewrites its rows as they are read",
        "top": "a bag of mode max compares numbers of rows",
        "normed": "its weight is computed",
        **dict.fromkeys(("rows", "planes", "fixed"), no_embedding),
        "unregistered.more.0": "no part of the module: nn.ModuleList and nn.ModuleDict make one of it",
    }
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def replace_labels(frozen: FrozenModel, like: FrozenModel) -> FrozenModel:
    """The model with another's labelled examples."""
    return FrozenModel(**{**vars(frozen), "labelled": like.labelled})


def test_frozen_by_attach(tmp_path: Path) -> None:
    module = Pair()
    attach(module, {name: torch.bincount(requests(500)[name], minlength=V) for name in ("user", "item")})
    frozen = freeze(module.eval(), example=requests())
    model = compress(frozen, dim_budget=0.4, batches=clicks(module))
    check_report(model, replace_labels(frozen, model))
    for name in ("user", "item"):
        assert report_of(model)["fields"][name]["avg_dim_before"] <= D
    bundle = export(model, tmp_path / "bundle")
    assert validate(bundle.path, model).problems == []


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"dim_budget": 0.5, "max_auc_drop": 0.1}, "give one of them"),
        ({"dim_budget": 0.0}, "dim_budget"),
        ({"dim_budget": 1.5}, "dim_budget"),
        ({"dim_budget": float("nan")}, "dim_budget"),
        ({"max_auc_drop": -0.1}, "max_auc_drop"),
        ({"max_auc_drop": float("nan")}, "max_auc_drop"),
        ({"dim_budget": 0.1}, "one dim for each of 59 rows is more than 47 numbers"),
    ],
)
def test_limits_that_cannot_be(limits: dict[str, float], says: str) -> None:
    module = Pair()
    with torch.no_grad():
        module.item.weight[0] = 0
    with pytest.raises(InputError, match=says):
        compress(freeze(module.eval(), example=requests()), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_no_number(value: float) -> None:
    module = Pair()
    given = clicks(module)
    with torch.no_grad():
        module.user.weight[7, 3] = value
    report = report_of(compress(freeze(module, example=requests()), dim_budget=0.5, batches=given))
    assert set(report["fields"]) == {"item"}
    assert report["left"] == {"user": "row 7 holds NaN or infinity"}
    with torch.no_grad():
        module.item.weight[2] = value
    with pytest.raises(InputError, match=r"(?s)no table can be cut.*row 2.*"):
        compress(freeze(module, example=requests()), dim_budget=0.5, batches=given)


class WithLoss(Pair):
    """A loss beside the score, as models have it that are trained by what they answer; or alone."""

    def __init__(self, *, alone: bool, first: bool = False) -> None:
        super().__init__()
        self.alone, self.first = alone, first

    def forward(self, user: Tensor, item: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        score = super().forward(user, item)
        loss = {"loss": nn.functional.binary_cross_entropy_with_logits(score, label)}
        return loss if self.alone else loss | {"score": score} if self.first else {"score": score} | loss


@pytest.mark.parametrize("first", [False, True])
def test_a_loss_among_the_outputs(tmp_path: Path, first: bool) -> None:
    module = WithLoss(alone=False, first=first).eval()
    given: list[tuple[dict[str, Tensor], None]] = [
        (requests(seed=seed) | {"label": torch.arange(40.0) % 2}, None) for seed in (1, 2)
    ]
    model = compress(Source(module, given[0][0], score="score"), dim_budget=0.5, batches=given)
    report, expected = (
        report_of(model),
        report_of(
            compress(
                Source(Pair().eval(), requests()), dim_budget=0.5, batches=[(requests(seed=s), None) for s in (1, 2)]
            )
        ),
    )
    assert report["requests"] == expected["requests"] == 80
    assert report["fields"] == expected["fields"]
    bundle = export(model, tmp_path / "bundle")
    assert validate(bundle.path, model).problems == []


def test_a_loss_alone() -> None:
    module = WithLoss(alone=True).eval()
    inputs = requests() | {"label": torch.arange(40.0) % 2}
    report = report_of(compress(freeze(module, example=inputs), dim_budget=0.5, batches=[(inputs, None)]))
    assert {own["metric"] for own in report["fields"].values()} == {"gradients"}


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64])
def test_answers_that_are_decisions(tmp_path: Path, kind: torch.dtype) -> None:
    class Decides(Pair):
        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (super().forward(user, item) > 0).to(kind)

    module = Decides().eval()
    source = Source(module, requests(), batches=[(inputs, module(**inputs).long()) for inputs in (requests(seed=1),)])
    model = compress(source, dim_budget=0.5)
    assert report_of(model)["auc_valid_before"] == 1
    for number, (frozen, dtype) in enumerate([(model, "fp32"), (freeze(source), "int8")]):
        bundle = export(frozen, tmp_path / str(number), ExportConfig(dtype=dtype))  # type: ignore[arg-type]
        verdict = validate(bundle.path, frozen)
        assert verdict.auc_torch is not None
        assert [problem for problem in verdict.problems if "logit" not in problem and "AUC" not in problem] == []


def test_scores_that_are_no_number() -> None:
    class Logs(Pair):
        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return torch.log(super().forward(user, item))

    given = [(inputs, torch.arange(40) % 2) for inputs in (requests(seed=1), requests(seed=2))]
    frozen = freeze(Logs().eval(), example=requests())
    assert report_of(compress(frozen, dim_budget=0.5, batches=given))["auc_valid_before"] is None
    with pytest.raises(InputError, match="a score is NaN"):
        compress(frozen, max_auc_drop=0.5, batches=given)


class Steep(Pair):
    """A score whose square is infinite, and one that is infinite where a number of a row is not above 0."""

    def forward(self, user: Tensor, item: Tensor) -> Any:
        return 1e25 * super().forward(user, item), torch.log(torch.relu(self.item(item)[:, 1]))


def test_scores_whose_distances_are_infinite(tmp_path: Path) -> None:
    module = Steep().eval()
    with torch.no_grad():
        module.item.weight[:, 1].abs_()
    small = compress(Source(module, requests(), score=["output_0", "output_1"]), dim_budget=0.15)
    cut = report_of(small)["answers_after_cut"]
    assert 1e25 < cut["mean_abs_diff"] < cut["max_abs_diff"] < np.inf
    assert 1e23 < cut["std"] < np.inf
    assert export(small, tmp_path / "bundle").path.is_dir()  # its report is JSON


def test_a_score_that_is_constant() -> None:
    module = Pair()
    given = clicks(module)
    with torch.no_grad():
        module.out.weight.zero_()
    report = report_of(compress(freeze(module, example=requests()), max_auc_drop=0.0, batches=given))
    assert (report["auc_valid_before"], report["auc_valid_after"]) == (0.5, 0.5)
    assert report["avg_dim_ratio"] == pytest.approx(1 / D)


def test_small_tables(tmp_path: Path) -> None:
    module = Pair(dim=4)
    module.user = nn.Embedding(1, 4)  # one row
    with torch.no_grad():
        module.item.weight[1:] = module.item.weight[1]  # all rows alike
        module.item.weight[0] = 0
    example = {"user": torch.zeros(6, dtype=torch.int64), "item": torch.tensor([0, 1, 2, 3, 4, 5])}
    model = compress(freeze(module.eval(), example=example), dim_budget=0.3)
    report = report_of(model)
    assert [own["avg_dim"] for own in report["fields"].values()] == [1, 1]
    found, expected = model.answers(model.example)["output"], module(**example).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)  # one direction each: nothing is lost
    bundle = export(model, tmp_path / "bundle", ExportConfig("ragged"))
    assert validate(bundle.path, model).problems == []


def test_all_ids_are_padding() -> None:
    module = Pair()
    with torch.no_grad():
        module.item.weight[0] = 0
    example = {"user": torch.arange(6), "item": torch.zeros(6, dtype=torch.int64)}
    given = [(example, torch.arange(6) % 2)]
    report = report_of(compress(freeze(module.eval(), example=example), dim_budget=0.5, batches=given))
    assert report["fields"]["user"]["metric"] == "gradients"
    assert report["fields"]["item"]["metric"] in ("weights", "none")
    assert report["fields"]["item"]["avg_dim"] >= 1


def test_what_a_model_collects_is_not_in_the_way() -> None:
    class Collects(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.rows: dict[str, Tensor] = {}

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            self.rows["user"] = self.user(user)
            return super().forward(user, item)

    module = Collects()
    frozen = freeze(module.eval(), example=requests())
    assert report_of(compress(frozen, dim_budget=0.5, batches=clicks(module)))["requests"] == 160


class Wide(nn.Module):
    """Two tables, one of more dims than a byte counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(40, 300), nn.Embedding(30, 16)
        self.out = nn.Linear(316, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.out(torch.cat([self.a(a), self.b(b)], 1))[:, 0]
        return logit


def test_tables_of_several_widths() -> None:
    torch.manual_seed(0)
    inputs = {"a": torch.randint(0, 40, (256,)), "b": torch.randint(0, 30, (256,))}
    source = Source(Wide().eval(), inputs, batches=[(inputs, (torch.arange(256) % 2).float())])
    small = compress(source, dim_budget=0.95, curve=False)
    assert sum(int(table.dims.sum()) for table in small.tables.values()) <= 0.95 * (40 * 300 + 30 * 16)
    exact = compress(source, dim_budget=1.0, curve=False)
    expected = freeze(source).answers(exact.example)
    for name, values in expected.items():
        np.testing.assert_allclose(exact.answers(exact.example)[name], values, atol=1e-4)
