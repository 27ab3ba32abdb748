"""Modules that are written otherwise than most: exported as they are, or refused by name with nothing changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
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
