"""Operators that PyTorch's exporter has no ONNX for: as PyTorch has them, for other sizes and numbers too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export import export, freeze, load, validate

#: Made of ids `[B]`, prices `[B, 5]` and rows of a table `[B, 6]`.
MADE: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "isin": lambda ids, price, rows: (
        torch.isin(ids, torch.tensor([1, 2, 3])),
        torch.isin(ids.int(), torch.tensor([[1, 7], [2, 1 << 24]]), invert=True),
        torch.isin(rows, torch.tensor([], dtype=torch.float32)),
        torch.isin(price, torch.arange(0, 1, 0.1)),  # enough for PyTorch to sort them
    ),
    "searchsorted": lambda ids, price, rows: (
        torch.searchsorted(torch.linspace(0, 1, 9), price),
        torch.searchsorted(torch.linspace(0, 1, 9), price, right=True, out_int32=True),
        torch.searchsorted(rows.sort(dim=1).values, price, side="right"),
        torch.searchsorted(rows, price, sorter=rows.argsort(dim=1)),
        torch.searchsorted(torch.tensor([2, 4, 8]), ids),
    ),
    "hypot": lambda _, price, rows: torch.hypot(rows[:, :5], price.nan_to_num(1, 2, 3)),
    "cdist": lambda _, price, rows: tuple(
        torch.cdist(rows.view(-1, 3, 2), price[:, :4].nan_to_num(1, 2, 3).view(-1, 2, 2), p=p)
        for p in (0.0, 0.5, 1.0, 2.0, 3.0, torch.inf)
    ),
    "cumprod": lambda _, price, rows: (
        torch.cumprod(torch.sigmoid(rows), dim=1),
        torch.cumprod(rows.view(-1, 3, 2), dim=-2),
        torch.cumprod(rows[0], dim=0, dtype=torch.float64),
        torch.cumprod(price > 0.2, dim=-1),
        torch.cumprod(rows.sum(), dim=0),
    ),
}  # fmt: skip


class Model(nn.Module):
    def __init__(self, made: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.items, self.made = nn.Embedding(20, 6), made

    def forward(self, item: Tensor, price: Tensor) -> Any:
        rows = self.items(item)
        return rows, self.made(item, price, rows)


@pytest.mark.parametrize("kind", MADE)
def test_it_is_as_in_pytorch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(MADE[kind]).eval()
    example = {"item": torch.randint(0, 20, (6,)), "price": torch.rand(6, 5)}
    bundle = export(freeze(model, example=example), tmp_path / "bundle")
    assert validate(bundle.path, model, example).problems == []
    price = torch.linspace(0, 1, 15).reshape(3, 5)  # the edges of buckets
    price[2] = torch.tensor([-1.0, 2.0, torch.inf, -torch.inf, torch.nan])
    with torch.no_grad():
        rows, made = model(torch.tensor([0, 7, 19]), price)
    answers = load(bundle.path).predict({"item": np.array([0, 7, 19]), "price": price.numpy()})
    expected = [rows, made] if isinstance(made, Tensor) else [rows, *made]
    for answer, wanted in zip(answers.values(), expected, strict=True):
        assert answer.dtype == wanted.numpy().dtype
        np.testing.assert_allclose(answer, wanted.numpy(), rtol=1e-5, atol=1e-6)
