"""G of a field: gradients of the answer in the rows that requests look up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export.compression.metric import Measured, measure
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.spec import Feed

V, D = 12, 4
ROWS = ("items", 0)


class Items(nn.Module):
    """A table, a layer of one output, and what a test makes of them."""

    def __init__(self, answer: Callable[[Any, Tensor], Any], padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.out = nn.Embedding(V, D, padding_idx=padding), nn.Linear(D, 1)
        self.bags = nn.EmbeddingBag(V, D, mode="mean", padding_idx=2)
        self.answer = answer
        self.seen: list[Tensor] = []
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        return self.answer(self, x)


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def measured(module: nn.Module, *feeds: Tensor, most: int = 1000) -> tuple[FrozenModel, Measured]:
    frozen = freeze(module.eval(), example=feeds[0])
    requests: list[Feed] = [{frozen.inputs[0].name: own.numpy()} for own in feeds]
    return frozen, measure(frozen, requests, most)


def linear(m: Any, x: Tensor) -> Tensor:
    scores: Tensor = m.out(m.items(x)).squeeze(1)
    return scores


def outer(module: Items) -> Any:
    w = module.out.weight.detach().double().numpy()
    return w.T @ w


def metric(found: Measured, rows: tuple[str, int] = ROWS) -> Any:
    G = found.metric(rows)
    assert G is not None
    return G


def test_of_a_linear_model_it_is_that_of_its_weights() -> None:
    module = Items(linear)
    _, found = measured(module, ids(6), ids(5, seed=1))
    np.testing.assert_allclose(metric(found), outer(module), rtol=1e-5)
    assert (found.requests, found.lookups[ROWS]) == (11, 11)
    seen = np.bincount(torch.cat([ids(6), ids(5, seed=1)]).numpy(), minlength=V)
    np.testing.assert_array_equal(found.seen["items"], seen)


def test_no_more_requests_than_wanted() -> None:
    _, found = measured(Items(linear), ids(6), ids(6, seed=1), ids(6, seed=2), most=7)
    assert found.requests == 12  # whole batches
    _, none = measured(Items(linear), ids(6), most=0)
    assert (none.requests, none.metric(ROWS)) == (0, None)


def test_probabilities_are_taken_as_logits() -> None:
    module = Items(lambda m, x: torch.sigmoid(linear(m, x)))
    _, found = measured(module, ids(6))
    np.testing.assert_allclose(metric(found), outer(module), rtol=1e-3)


def test_saturated_probabilities_have_no_infinite_gradient() -> None:
    _, found = measured(Items(lambda m, x: torch.sigmoid(1e4 * linear(m, x))), ids(6))
    assert np.isfinite(metric(found)).all()


def test_sums_of_rows() -> None:
    module = Items(lambda m, x: m.out(m.items(x).mean(1)).squeeze(1))
    _, found = measured(module, ids(6, 3))
    np.testing.assert_allclose(metric(found), outer(module) / 9, rtol=1e-5)
    assert found.lookups[ROWS] == 18


def test_bags_leave_padding_out() -> None:
    module = Items(lambda m, x: m.out(m.bags(x)).squeeze(1))
    x = torch.tensor([[1, 2, 2], [3, 4, 2], [5, 6, 7]])
    _, found = measured(module, x)
    expected = outer(module) * (1 + 2 / 4 + 3 / 9) / 6
    np.testing.assert_allclose(metric(found, ("bags", 0)), expected, rtol=1e-5)
    assert found.lookups["bags", 0] == 6
    assert found.seen["bags"][2] == 0


def test_padding_is_no_lookup() -> None:
    module = Items(linear, padding=1)
    x = torch.tensor([1, 1, 3, 1])
    _, found = measured(module, x)
    assert found.lookups[ROWS] == 1
    assert found.seen["items"].sum() == 1
    _, nothing = measured(module, torch.ones(4, dtype=torch.int64))
    assert nothing.metric(ROWS) is None


def test_ids_outside_the_table_read_its_first_row() -> None:
    module = Items(linear)
    frozen = freeze(module.eval(), example=ids(6))
    found = measure(frozen, [{frozen.inputs[0].name: np.array([-1, V, 2**62, 0, 3])}], 10)
    assert found.seen["items"].tolist() == [4, 0, 0, 1] + [0] * 8


def test_rows_may_be_written_into() -> None:
    def doubling(m: Any, x: Tensor) -> Tensor:
        rows = m.items(x)
        rows *= 2
        return linear_of(m, rows)

    module = Items(doubling)
    frozen, found = measured(module, ids(6))
    np.testing.assert_allclose(metric(found), 4 * outer(module), rtol=1e-5)
    torch.testing.assert_close(frozen.tables["items"].rows, module.items.weight.detach())


def linear_of(m: Any, rows: Tensor) -> Tensor:
    scores: Tensor = m.out(rows).squeeze(1)
    return scores


def test_what_a_model_keeps_is_put_back() -> None:
    def keeping(m: Any, x: Tensor) -> Tensor:
        m.calls += 1
        m.last = m.items(x)
        return linear_of(m, m.last)

    frozen, found = measured(Items(keeping), ids(6), ids(6))
    assert int(frozen.module.model.get_buffer("calls")) == 0
    assert not hasattr(frozen.module.model, "last")
    assert found.requests == 12
    assert all(table.tap is None for table in frozen.tables.values())


def test_a_model_that_fails_leaves_no_trace() -> None:
    frozen = freeze(Items(linear).eval(), example=ids(6))
    with pytest.raises(KeyError):
        measure(frozen, [{"other": np.zeros(2, np.int64)}], 10)
    assert all(table.tap is None for table in frozen.tables.values())


def test_several_outputs_count_alike() -> None:
    module = Items(lambda m, x: {"large": 1000 * (rows := m.items(x))[:, 0], "small": rows[:, 1]})
    _, found = measured(module, ids(8))
    spread = module.items.weight.detach()[ids(8)].double().std(0).numpy()
    expected = np.diag([1 / spread[0] ** 2, 1 / spread[1] ** 2, 0, 0])
    np.testing.assert_allclose(metric(found), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("constant", [False, True])
def test_several_outputs_of_one_example(constant: bool) -> None:
    module = Items(lambda m, x: {"a": m.items(x)[:, 0], "b": m.items(x)[:, 1] * (0.0 if constant else 3.0)})
    _, found = measured(module, ids(8), ids(1), ids(1, seed=1))
    one = metric(measured(module, ids(8))[1])
    assert np.isfinite(metric(found)).all()
    assert np.trace(metric(found)) < 10 * np.trace(one)  # one example does not outweigh eight


def test_outputs_of_several_numbers() -> None:
    module = Items(lambda m, x: m.items(x) * torch.arange(1.0, 5.0))
    _, found = measured(module, ids(40))
    np.testing.assert_allclose(np.diag(metric(found)), [1, 4, 9, 16], rtol=1e-5)


def test_answers_that_no_row_moves() -> None:
    _, found = measured(Items(lambda m, x: m.items(x).argmax(1)), ids(6))
    assert found.metric(ROWS) is None or not np.any(found.metric(ROWS))
    with torch.no_grad():
        still = Items(linear)
        still.out.weight.zero_()
    assert not metric(measured(still, ids(6))[1]).any()


def test_a_batch_of_none() -> None:
    _, found = measured(Items(linear), ids(6), ids(0))
    assert found.requests == 6
    assert np.isfinite(metric(found)).all()
