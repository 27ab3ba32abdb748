"""A user's module is as it was after every call of it: mode, weights, buffers, random numbers."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.bundle.export import export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze, of_module
from amtl_export.freezing.kept import contents_kept, evaluating
from amtl_export.source.source import Source
from amtl_export.validation.validate import validate

V, D = 50, 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def example() -> dict[str, Tensor]:
    return {"ids": torch.arange(8)}


class Net(nn.Module):
    """A table and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.out = nn.Embedding(V, D), nn.Linear(D, 1)

    def forward(self, ids: Tensor) -> Any:
        return self.out(self.emb(ids)).squeeze(-1)


class Writing(Net):
    """Writes into a weight, a large and a small buffer and running means, and draws numbers, at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.more, self.norm = nn.Embedding(V, D, max_norm=1.0), nn.BatchNorm1d(D)
        self.register_buffer("log", torch.zeros(100_000))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: Tensor) -> Any:
        torch.rand(1), np.random.rand(), random.random()
        F.batch_norm(self.emb(ids), self.norm.running_mean, self.norm.running_var, training=True)
        self.get_buffer("log").add_(1.0)
        self.get_buffer("calls").add_(1.0)
        return self.out(self.emb(ids) + self.more(ids)).squeeze(-1) + self.get_buffer("calls")


class Merging(nn.Embedding):
    """Merges an addition into its weight in evaluation mode, and takes it out in training mode, as LoRA does."""

    def __init__(self) -> None:
        super().__init__(V, D)
        self.merged = False
        self.a, self.b = nn.Parameter(torch.randn(V, 2)), nn.Parameter(torch.randn(2, D))

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.a @ self.b).data
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        return rows if self.merged else rows + F.embedding(input, self.a) @ self.b


def everything(module: nn.Module) -> tuple[Any, ...]:
    flags = [(part.training, getattr(part, "merged", None)) for part in module.modules()]
    drawn = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    return flags, [value.tolist() for value in module.state_dict().values()], drawn


def test_weights_buffers_and_random_numbers_are_put_back(tmp_path: Path) -> None:
    module = Writing()
    module.more.weight.data[20:] *= 10  # rows beyond the example, for the rows that validation draws
    before = everything(module)
    frozen = freeze(module, example=example())
    assert everything(module) == before
    bundle = export(frozen, tmp_path / "bundle")
    assert everything(module) == before
    for inputs in (None, {"ids": torch.arange(10, 40)}):
        assert validate(bundle.path, module, inputs).problems == []
    assert everything(module) == before


def test_only_what_is_written_to_is_copied() -> None:
    module = Writing()
    start = {name: value.data_ptr() for name, value in module.state_dict().items()}
    version = module.emb.weight._version
    with contents_kept(module), torch.no_grad():
        module.more.weight[3:5].zero_()
        module.out.weight.data = torch.zeros(1, D)
        torch.add(module.out.bias, 1.0, out=module.out.bias)
    assert bool(module.more.weight.all())
    assert bool(module.out.weight.all())
    assert {name: value.data_ptr() for name, value in module.state_dict().items()} == start
    assert module.emb.weight._version == version


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_module_that_merges_weights_in_evaluation_mode(tmp_path: Path, training: bool, shared: bool) -> None:
    module = Net()
    module.emb = Merging()
    module.train(training)
    before, rows = everything(module), module.emb.weight + module.emb.a @ module.emb.b * (training or 0)
    if shared:
        frozen = of_module(Source(module, example()), "Net", shared=True)
        assert not module.training
    else:
        frozen = freeze(module, example=example())
        assert everything(module) == before
    torch.testing.assert_close(frozen.tables["emb"].rows, rows.detach())
    np.testing.assert_allclose(
        frozen.answers(frozen.example)["output"], frozen.trained_answers(frozen.example)["output"], atol=1e-6
    )
    if not shared:
        bundle = export(frozen, tmp_path / "bundle")
        assert validate(bundle.path, module).problems == []
        assert everything(module) == before


def test_parts_of_another_mode_keep_it() -> None:
    module = nn.Sequential(Merging(), nn.Sequential(Merging(), nn.Dropout())).train()
    module[1].eval()
    before = everything(module)
    with evaluating(module):
        assert module[0].merged
    assert everything(module) == before
    assert not module[0].merged


def drawing(self: Any, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5)


def drawing_python(self: Any, x: Tensor) -> Tensor:
    return x * random.random() + np.random.rand()


def counting(self: Any, x: Tensor) -> Tensor:
    self.seen.append(1)
    return x + len(self.seen)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (drawing, r"differently twice: it draws random(?s:.*)Head(?s:.*)output(?s:.*)training=self\.training"),
        (drawing_python, r"differently twice"),
        (counting, r"differently twice\n(?s:.*)inputs alone"),
        (lambda _, x: x[: torch.randint(1, 8, ())], r"differently twice: it draws random"),
    ],
)
def test_a_model_that_answers_differently_is_refused(head: Any, says: str) -> None:
    class Head(Net):
        seen: list[int] = []  # noqa: RUF012  # of the class: out of sight

        def forward(self, ids: Tensor) -> Any:
            return head(self, super().forward(ids))

    with pytest.raises(InputError, match=says):
        freeze(Head(), example=example())


def test_a_model_that_answers_nan_and_counts_its_calls_is_not() -> None:
    class Head(Writing):
        ticks = torch.zeros(())

        def forward(self, ids: Tensor) -> Any:
            self.ticks += 1
            return super().forward(ids) * torch.tensor([float("nan")] + [1.0] * 7) + self.ticks

    module = Head()
    module.ticks = torch.zeros(())
    assert freeze(module, example=example()).outputs == ("output",)
    assert module.ticks == 0
