"""A module that changes after it was frozen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.export import export
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.freezing.changed import changed_since
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.validation.validate import validate

V, D = 50, 8


class Net(nn.Module):
    """A table and a layer, and a number that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.out = nn.Embedding(V, D), nn.Linear(D, 1)
        self.scale = 1.0
        self.register_buffer("nothing", torch.full((2,), float("nan")))

    def forward(self, ids: Tensor) -> Any:
        return self.out(self.emb(ids)).squeeze(-1) * self.scale


def frozen_of(module: nn.Module) -> FrozenModel:
    return freeze(module, example={"ids": torch.arange(8)})


def trained_on(module: Any) -> None:
    with torch.no_grad():
        module.out.weight.add_(1.0)


def other_rows(module: Any) -> None:
    module.emb.weight.data *= 2


def hooked(module: Any) -> None:
    module.emb.register_forward_hook(lambda _, __, output: output + 1)


def scaled(module: Any) -> None:
    module.scale = 3.0


@pytest.mark.parametrize(
    ("change", "where"),
    [(trained_on, r"out\.weight"), (other_rows, r"emb\.frozen_table"), (hooked, "emb"), (scaled, "scale")],
)
def test_a_module_that_changes_after_freeze_is_named(
    tmp_path: Path, change: Callable[[nn.Module], None], where: str
) -> None:
    module = Net()
    frozen = frozen_of(module)
    bundle = export(frozen, tmp_path / "before")
    assert changed_since(frozen) is None
    change(module)
    with pytest.raises(InputError, match=rf"(?s)changed after freeze.*where: {where}.*freeze it again"):
        export(frozen, tmp_path / "after")
    assert not (tmp_path / "after").exists()
    assert "changed after freeze" in validate(bundle.path, frozen).problems[0]
    export(frozen_of(module), tmp_path / "again")


def test_a_graph_that_is_wrong_by_itself_is_not_put_down_to_the_module(tmp_path: Path) -> None:
    class Twice(Net):
        def forward(self, ids: Tensor) -> Any:
            answer = super().forward(ids)
            return answer + 1 if type(self.emb) is nn.Embedding else answer

    frozen = frozen_of(Twice().train())
    assert changed_since(frozen) is None
    with pytest.raises(ValidationFailed, match="answers differently from PyTorch"):
        export(frozen, tmp_path / "bundle")
