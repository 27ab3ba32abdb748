"""A frozen copy stands by itself: what it would still read in its original is refused."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amtl_export import attach
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze

V, D = 50, 8


class Net(nn.Module):
    """A table and a layer, and a second table for hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.out, self.bias = nn.Embedding(V, D), nn.Linear(D, 1), nn.Embedding(V, D)

    def forward(self, ids: Tensor) -> Any:
        return self.out(self.emb(ids)).squeeze(-1)


def frozen_of(module: nn.Module) -> FrozenModel:
    return freeze(module, example={"ids": torch.arange(8)})


def by_closure(module: Any) -> Callable[..., Tensor]:
    return lambda _, ids, output: output + module.bias(ids[0])


def by_weakref(module: Any) -> Callable[..., Tensor]:
    bias = weakref.ref(module.bias)
    return lambda _, ids, output: output + bias()(ids[0])  # type: ignore[misc]  # it lives


@pytest.mark.parametrize("way", [by_closure, by_weakref])
def test_an_attached_table_past_the_copy_is_refused(way: Callable[[Any], Callable[..., Tensor]]) -> None:
    module = attach(Net(), {"emb": torch.arange(V), "bias": torch.arange(V)})
    module.emb.register_forward_hook(way(module))
    with pytest.raises(InputError, match=r"(?s)reached past the copy: through a closure.*where: bias\n"):
        frozen_of(module)


def test_one_that_is_found_in_the_module_is_not() -> None:
    class Both(Net):
        def forward(self, ids: Tensor) -> Any:
            return self.out(self.emb(ids) + self.bias(ids)).squeeze(-1)

    module = attach(Both(), {"emb": torch.arange(V), "bias": torch.arange(V)})
    assert set(frozen_of(module).tables) == {"emb", "bias"}


def test_parameters_of_one_memory_are_told_apart() -> None:
    module: Any = attach(Net(), {"emb": torch.arange(V), "bias": torch.arange(V)})
    own = list(module.parameters())
    whole = torch.cat([p.detach().flatten() for p in own])
    for p, part in zip(own, whole.split([p.numel() for p in own]), strict=True):
        p.data = part.view(p.shape)
    assert set(frozen_of(module).tables) == {"emb"}
    module.out.register_forward_hook(lambda _, __, output: output + module.emb(torch.arange(8))[:, :1])
    with pytest.raises(InputError, match=r"(?s)reached past the copy.*where: emb\n"):
        frozen_of(module)


def test_a_table_replaced_after_it_was_attached_cannot_be_frozen() -> None:
    module: Any = attach(Net(), {"emb": torch.arange(V)})
    module.emb.weight = nn.Parameter(torch.randn(V + 20, D))
    with pytest.raises(InputError, match=rf"(?s)cannot be frozen.*emb has {V + 20} rows and was attached with {V}"):
        frozen_of(module)
