"""What a batch reads of a masked table: each distinct id once, with the gradients of reading every one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from amtl_export.models.amtl import MaskedEmbedding, distinct
from amtl_export.models.config import EmbeddedField, ModelConfig, SelectionConfig
from amtl_export.models.ctr import METHODS
from amtl_export.models.selection import Selector, StraightThrough, cumulate

D = 6
FIELDS = (
    EmbeddedField("user", 400),
    EmbeddedField("kind", 5, governed=False),
    EmbeddedField("item", 50, dim=4),
    EmbeddedField("shop", 30, governed=False, dim=2),
    EmbeddedField("words", 30, padding=29),
    EmbeddedField("items", 50, padding=49, shares="item"),
)


@given(st.lists(st.integers(0, 19), min_size=1, max_size=60), st.sampled_from([20, 10**9]))
def test_distinct_ids_are_those_of_a_sort(values: list[int], size: int) -> None:
    ids = torch.tensor(values).reshape(-1, 1)
    found, place = distinct(ids, size)
    expected, inverse = torch.unique(ids, return_inverse=True)
    assert torch.equal(found, expected)
    assert torch.equal(place, inverse)


def test_an_id_outside_its_field_is_no_other_id() -> None:
    for wrong in (-1, 4):
        with pytest.raises((IndexError, RuntimeError)):
            distinct(torch.tensor([0, 1, 2, 3, wrong]), 4)


def build(method: str, sparse: bool) -> MaskedEmbedding:
    torch.manual_seed(0)
    config = ModelConfig(FIELDS, dim=D, method=method, sparse=sparse, selection=SelectionConfig(hidden=(8,)))
    made = METHODS[method](config, [torch.randint(1, 1000, (field.size,)) for field in FIELDS])
    assert isinstance(made, MaskedEmbedding)
    with torch.no_grad():
        made.table.cut_(made.table.weight.normal_())
    return made.train()


def one_by_one(method: MaskedEmbedding, ids: Tensor, fields: tuple[int, ...]) -> Tensor:
    """m * e, every id for itself."""
    columns = []
    for place, field in enumerate(fields):
        own = ids if len(fields) == 1 else ids[:, place : place + 1]
        rows = method.table.take(own, (field,))
        owner = {5: 2}.get(field, field)
        if str(owner) in method.selectors:
            selector = method.selectors[str(owner)]
            assert isinstance(selector, Selector)
            mask = selector.mask(own.flatten())
            rows = rows * torch.nn.functional.pad(mask, (0, D - mask.shape[1])).reshape(rows.shape)
        columns.append(rows)
    return torch.cat(columns, dim=1)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("method", ["amtl", "aml", "amtl_nste"])
def test_rows_and_gradients_are_those_of_every_id(method: str, sparse: bool) -> None:
    for fields, count in (((0, 1, 2, 3), 64), ((4,), 8), ((5,), 30), ((1, 3), 9), ((0, 2), 1)):
        sizes = torch.tensor([FIELDS[field].size for field in fields])
        ids = (torch.rand(count, len(fields) if len(fields) > 1 else 3) * sizes).long()
        found = []
        for read in (MaskedEmbedding.lookup, MaskedEmbedding._read_each, one_by_one):  # the second is a GPU's
            made = build(method, sparse)
            rows = read(made, ids, fields)
            (rows.sin() * torch.arange(1, D + 1)).sum().backward()
            grads = {n: p.grad.to_dense() for n, p in made.named_parameters() if p.grad is not None}
            found.append((rows.detach(), grads))
        torch.testing.assert_close(found[0], found[2])
        torch.testing.assert_close(found[1], found[2])


def test_an_estimator_is_the_soft_selection_twice_derived_too() -> None:
    h = torch.randn(5, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, D, dtype=torch.float64)
    hard = StraightThrough.apply(h, 0.7)  # type: ignore[no-untyped-call]
    soft = cumulate(torch.softmax(h / 0.7, dim=-1))
    (one,), (other,) = (torch.autograd.grad((m * weight).sum(), h, create_graph=True) for m in (hard, soft))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(torch.autograd.grad(one.square().sum(), h), torch.autograd.grad(other.square().sum(), h))
