"""Sizes that may change: what a model makes of them is found out, not assumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from amtl_export import AmtlError, Source, export, freeze, load, validate
from amtl_export.errors import InputError, ValidationFailed


class Model(nn.Module):
    """A table and what is made of its rows."""

    def __init__(self, made: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.emb, self.out, self.made = nn.Embedding(50, 8), nn.Linear(8, 1), made
        self.register_buffer("positions", torch.randn(20, 8))

    def forward(self, item: Tensor) -> Any:
        return self.made(self.out(self.emb(item)).squeeze(-1), item)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, 50, shape)


BRANCHES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "above a size": lambda y, item: y * 2 if item.shape[0] > 50 else y,
    "one size": lambda y, item: y * 2 if item.shape[0] == 7 else y,
    "even sizes": lambda y, item: y * 2 if item.shape[0] % 2 == 0 else y,
    "one example": lambda y, item: y * 2 if item.shape[0] == 1 else y,
}


@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_on_the_batch_is_no_bundle(kind: str, tmp_path: Path) -> None:
    with pytest.raises(AmtlError):
        export(freeze(Model(BRANCHES[kind]), example={"item": ids(16)}), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("size", [lambda item: len(item), lambda item: int(item.shape[0])])
def test_sizes_as_python_numbers(size: Callable[[Tensor], int], tmp_path: Path) -> None:
    model = Model(lambda y, item: y.view(size(item), 1) + torch.zeros(size(item), 1)).eval()
    bundle = export(freeze(model, example={"item": ids(16)}), tmp_path / "b")
    x = ids(33)
    with torch.no_grad():
        found = torch.from_numpy(load(bundle.path).predict({"item": x.numpy()})["output"])
        assert torch.allclose(found, model(x), atol=1e-6)


class Positions(nn.Module):
    """A history that is as long as there are positions, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.out = nn.Embedding(50, 8), nn.Linear(8, 1)
        self.register_buffer("positions", torch.randn(20, 8))

    def forward(self, history: Tensor) -> Any:
        rows = self.emb(history) + self.positions[: history.shape[1]]  # type: ignore[index]
        return self.out(rows.sum(1)).squeeze(-1)


def test_a_range_that_the_model_has_is_a_limit(tmp_path: Path) -> None:
    model, shapes = Positions().eval(), {"history": {0: "batch", 1: "length"}}
    bundle = export(freeze(model, example={"history": ids(6, 10)}, dynamic_shapes=shapes), tmp_path / "b")
    assert bundle.signature.limits == {"length": 20}
    assert validate(bundle.path, model, {"history": ids(5, 20)}).problems == []


def test_a_model_that_goes_on_otherwise_past_its_limit_is_refused(tmp_path: Path) -> None:
    class Cut(Positions):
        def forward(self, history: Tensor) -> Any:
            return super().forward(history[:, -20:] if history.shape[1] > 20 else history)

    frozen = freeze(Cut(), example={"history": ids(6, 10)}, dynamic_shapes={"history": {0: "batch", 1: "length"}})
    with pytest.raises(ValidationFailed, match="size length=21"):
        export(frozen, tmp_path / "b")


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda y, _: y.view(6, 10), "forward fixes the dimension batch at 6, the example's size"),
        (lambda y, _: y.chunk(2, dim=1)[0], "not every length fits: forward needs "),
    ],
)
def test_a_dimension_that_may_not_change_is_said(made: Any, found: str, tmp_path: Path) -> None:
    shapes = {"item": {0: "batch", 1: "length"}}
    frozen = freeze(Model(made).eval(), example={"item": ids(6, 10)}, dynamic_shapes=shapes)
    with pytest.raises(InputError) as error:
        export(frozen, tmp_path / "b")
    assert str(error.value.found).startswith(found)
    assert not any(word in str(error.value) for word in ("L[", "Constraints", "TORCH_LOGS"))


def test_outputs_of_a_whole_batch_are_said(tmp_path: Path) -> None:
    bundle = export(freeze(Model(lambda y, _: (y, y.mean())), example={"item": ids(16)}), tmp_path / "b")
    assert not bundle.signature.batches.independent


def test_an_input_without_a_dimension(tmp_path: Path) -> None:
    class Scaled(Model):
        def forward(self, item: Tensor, factor: Tensor) -> Any:  # type: ignore[override]
            return super().forward(item) * factor

    model = Scaled(lambda y, _: y).eval()
    bundle = export(freeze(model, example={"item": ids(16), "factor": torch.tensor(2.0)}), tmp_path / "b")
    assert validate(bundle.path, model, {"item": ids(9), "factor": torch.tensor(-3.0)}).problems == []


@pytest.mark.parametrize("last", [False, True])
def test_ids_behind_the_last_bag_are_in_none(last: bool, tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 8, mode="mean", include_last_offset=last)

        def forward(self, values: Tensor, offsets: Tensor) -> Any:
            return self.bag(values, offsets)

    model, offsets = Bags().eval(), torch.tensor([0, 2, 2, 4])
    bundle = export(freeze(model, example={"values": ids(10), "offsets": offsets}), tmp_path / "b")
    assert validate(bundle.path, model, {"values": ids(13), "offsets": torch.tensor([0, 0, 5, 9])}).problems == []


def test_weights_of_a_module_are_its_own_to_the_bit(tmp_path: Path) -> None:
    model = Model(lambda y, _: y * 1e-9).eval()
    bundle = export(freeze(model, example={"item": ids(16)}), tmp_path / "b")
    with torch.no_grad():
        model.out.weight *= -1
    assert any("differ from" in problem for problem in validate(bundle.path, model, {"item": ids(16)}).problems)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batches": [({"item": ids(4)}, [0, 1, 2, 1])]}, "labels are not 0 and 1"),
        ({"batches": [({"item": ids(4)}, ["a"] * 4)]}, "labels are no numbers"),
        ({"batches": [({"item": ids(4)}, None)]}, "a batch has no labels"),
        ({"batches": [{"item": ids(4)}]}, "a batch is no pair"),
        ({"batches": []}, "no labelled examples"),
        ({"batches": [({"item": ids(4) + 100}, [0, 1, 0, 1])]}, "fails on a batch"),
        ({"batches": [({"item": ids(4) + 100}, [0, 1, 0, 1])]}, "; emb has 50 rows, ids 0 to 49, and was given 1"),
    ],
)
def test_batches_that_cannot_be_scored_are_said(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = Model(lambda y, _: y).eval()
    bundle = export(freeze(model, example={"item": ids(16)}), tmp_path / "b")
    problems = validate(bundle.path, Source(model, {"item": ids(16)}, **given)).problems
    assert any(message in problem for problem in problems), problems


def test_batches_that_are_others_each_time_are_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    examples: Any = [({"item": item}, label) for item, label in zip(ids(96), torch.arange(96) % 2, strict=True)]
    model = Model(lambda y, _: y.squeeze(-1)).eval()
    example = {"item": ids(16)}
    bundle = export(freeze(model, example=example), tmp_path / "b")

    def problems(batches: Any) -> list[str]:
        return validate(bundle.path, Source(model, example, batches=batches)).problems

    def loader(**options: Any) -> DataLoader[Any]:
        return DataLoader(examples, batch_size=24, **options)

    fewer = iter([loader(), *(list(loader())[:2] for _ in range(9))])
    for batches in (loader(shuffle=True), loader(shuffle=True, drop_last=True), lambda: next(fewer)):
        (problem,) = problems(batches)
        assert "not the same when they are gone through again" in problem
        assert "shuffle=False" in problem
    for steady in (loader(shuffle=False), list(loader(shuffle=True)), iter(loader(shuffle=True))):
        assert problems(steady) == []


def test_counts_of_no_table_and_names_twice() -> None:
    model = Model(lambda y, _: y)
    with pytest.raises(InputError, match="no such table"):
        freeze(Source(model, {"item": ids(16)}, counts={"emb.weight": torch.ones(50)}))
    with pytest.raises(InputError, match="whole numbers"):
        freeze(Source(model, {"item": ids(16)}, counts={"emb": torch.full((50,), 1.5)}))
    with pytest.raises(InputError, match="called as an input"):
        freeze(model, example={"item": ids(16)}, outputs=["item"])


def test_a_model_keeps_its_inputs_and_its_state(tmp_path: Path) -> None:
    class Counting(Model):
        def __init__(self) -> None:
            super().__init__(lambda y, _: y)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, item: Tensor) -> Any:
            self.get_buffer("calls").add_(1)
            return super().forward(item.clamp_(max=40))

    model, x = Counting().eval(), torch.full((16,), 45)
    bundle = export(freeze(model, example={"item": x}), tmp_path / "b")
    assert validate(bundle.path, model, {"item": x}).problems == []
    assert int(model.get_buffer("calls")) == 0
    assert bool((x == 45).all())
