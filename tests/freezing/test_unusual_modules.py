"""Modules that are written otherwise than most: exported as they are, or refused by name with nothing changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export import compress, load
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze, of_module
from amtl_export.freezing.swap import frozen_tables
from amtl_export.models.attach import attach
from amtl_export.models.config import SelectionConfig
from amtl_export.source.source import Source
from amtl_export.validation.validate import validate

V, D = 30, 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Items(nn.Module):
    """A table, a layer, and what a test makes of them."""

    def __init__(
        self,
        items: nn.Module | None = None,
        answer: Callable[[Any, Tensor], Any] = lambda self, x: self.out(self.items(x)),
    ) -> None:
        super().__init__()
        self.items, self.out = items or nn.Embedding(V, D), nn.Linear(D, 1)
        self._answer = answer

    def forward(self, item: Tensor) -> Any:
        return self._answer(self, item)


IDS = torch.arange(6)


def proven(module: nn.Module, folder: Path, config: ExportConfig | None = None) -> list[str]:
    """Files of the fields of a bundle that is valid."""
    bundle = export(freeze(module.eval(), example=IDS), folder, config)
    assert validate(bundle.path, module).problems == []
    counts = [bundle.counts(name) for name in bundle.fields]
    assert counts == [None] * len(counts)
    assert all(len(bundle.dims(name)) == V for name in bundle.fields)
    return sorted(file.name for file in (bundle.path / "vocab").iterdir())


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("user/id", "user%2Fid.parquet"),
        ("{folder}/beside", "%2Fbeside.parquet"),
        ("a b-c_d", "a%20b-c_d.parquet"),
        ("%2F", "%252F.parquet"),
    ],
)
def test_a_name_of_a_module_leads_nowhere(tmp_path: Path, name: str, file: str) -> None:
    module = Items(answer=lambda self, x: self.out(self.get_submodule(name.format(folder=tmp_path))(x)))
    module.add_module(name.format(folder=tmp_path), nn.Embedding(V, D))
    del module.items
    assert [found[-len(file) :] for found in proven(module, tmp_path / "bundle")] == [file]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    module = Items(nn.ModuleDict({"é" * 50: nn.Embedding(V, D)}), lambda self, x: self.out(self.items["é" * 50](x)))
    with pytest.raises(InputError, match=r"too long for a file\n  where: items\.é+\n  found: 314 bytes"):
        freeze(module, example=IDS)


def ones_id(self: Any, x: Tensor) -> Tensor:
    rows: Tensor = self.items(x) * self.items(x[0])
    return rows


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("config", [ExportConfig(), ExportConfig(layout="ragged", target="native")])
@pytest.mark.parametrize(
    "read",
    [
        ones_id,
        lambda self, x: self.items(x) * self.items(torch.tensor(3)),
        lambda self, x: self.items(x) * F.embedding(x[0], self.items.weight),
        lambda self, x: self.items(x) * self.items.weight[x[0]],
    ],
)
def test_one_id_without_an_axis(tmp_path: Path, read: Any, config: ExportConfig, attached: bool) -> None:
    module = Items(answer=lambda self, x: self.out(read(self, x)))
    if attached:
        attach(module, {"items": torch.arange(V)}, SelectionConfig(initial_ratio=0.5))
    bundle = export(freeze(module.eval(), example=IDS), tmp_path / "bundle", config)
    assert validate(bundle.path, module).problems == []


def test_one_id_without_an_axis_of_a_compressed_model(tmp_path: Path) -> None:
    module = Items(answer=lambda self, x: self.out(ones_id(self, x)))
    frozen = compress(freeze(module.eval(), example=IDS), dim_budget=0.5)
    bundle = export(frozen, tmp_path / "bundle")
    expected = frozen.answers(frozen.example)["output"]
    np.testing.assert_allclose(load(bundle.path).predict(frozen.example)["output"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "read", "whole"),
    [
        (lambda self, x: self.out(self.items(x) * self.twin(x + 1)), ["items", "twin"], []),
        (lambda self, x: self.out(self.items(x)), ["items"], []),
        (lambda self, x: self.out(self.items(x)) + self.twin.weight.sum(), ["items", "twin"], ["twin"]),
    ],
)
def test_tables_in_one_memory(tmp_path: Path, answer: Any, read: list[str], whole: list[str]) -> None:
    module = Items(answer=answer)
    weight: Any = module.items.weight
    module.twin = nn.Embedding.from_pretrained(weight.detach())
    source = Source(module.eval(), IDS)
    frozen = of_module(source, "two", shared=True)
    assert len({table.rows.data_ptr() for table in frozen_tables(frozen.module.model).values()}) == 1
    assert sorted(frozen.tables) == read
    assert sorted(frozen.read_whole) == whole
    bundle = export(frozen, tmp_path / "bundle")
    assert validate(bundle.path, source).problems == []
