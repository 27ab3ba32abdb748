"""Small numbers in a model stay what they are: the exporter's own rules take them for 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export import export, freeze, load, validate


class Model(nn.Module):
    """Rows of a table, the first of which is zero, and what is made of them."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.emb, self.made = nn.Embedding(20, 4, padding_idx=0), made

    def forward(self, item: Tensor) -> Tensor:
        return self.made(self.emb(item))


MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "added": lambda x: x / torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-9),
    "taken away": lambda x: x / (x.square().sum(-1, keepdim=True) - 1e-9),
    "times": lambda x: (x * 1.000005 - x) * 1e5,
    "over": lambda x: (x / 1.000005 - x) * 1e5,
}


@pytest.mark.parametrize("kind", MADE)
def test_a_small_number_is_not_dropped(kind: str, tmp_path: Path) -> None:
    model, items = Model(MADE[kind]).eval(), torch.arange(20)
    bundle = export(freeze(model, example={"item": items}), tmp_path / "b")
    found = load(bundle.path).predict({"item": items.numpy()})["output"]
    with torch.no_grad():
        expected = model(items).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert validate(bundle.path, model, {"item": items}).problems == []


SMALL: dict[str, Callable[[Tensor], Tensor]] = {
    "logarithm": lambda x: torch.log(torch.sigmoid(x)),
    "of a sum": lambda x: torch.log(1e-10 + torch.sigmoid(x)),
    "of a product": lambda x: torch.log(torch.sigmoid(x) * torch.sigmoid(x[:1])),
    "odds": lambda x: torch.log(torch.sigmoid(x / 4) / (1 - torch.sigmoid(x / 4))),
    "denominator": lambda x: 1 / torch.sigmoid(x / 2),
    "root": lambda x: torch.sqrt(torch.sigmoid(x.double())).float(),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_probability_is_not_zero(kind: str, tmp_path: Path) -> None:
    model, items = Model(SMALL[kind]).eval(), torch.arange(20)
    model.emb.weight.data = torch.linspace(-60, 60, 20).unsqueeze(1).expand(20, 4).contiguous()
    bundle = export(freeze(model, example={"item": items}), tmp_path / "b")
    with torch.no_grad():
        expected = model(items).numpy()
    np.testing.assert_allclose(load(bundle.path).predict({"item": items.numpy()})["output"], expected, rtol=1e-5)
    assert validate(bundle.path, model, {"item": items}).problems == []


def test_a_gate_is_the_operators_own(tmp_path: Path) -> None:
    gated = export(freeze(Model(torch.nn.functional.silu).eval(), example={"item": torch.arange(20)}), tmp_path / "b")
    assert "Sigmoid" in [node.op_type for node in gated.proto().graph.node]
