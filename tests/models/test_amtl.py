"""The layer against the paper's equations, written out with matrices."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from amtl_export.models import ctr as ctr_module
from amtl_export.models.amtl import MaskedEmbedding
from amtl_export.models.budget import shift_logits
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField, SelectionConfig
from amtl_export.models.ctr import BOUND, CtrModel
from amtl_export.models.cut import PrunedEmbedding
from amtl_export.models.protocol import Freezable
from amtl_export.models.selection import (
    OneBranchSelector,
    Selector,
    SoftTwinSelector,
    TwinSelector,
    frequency_features,
    switch_input,
)
from amtl_export.typed import typed

D = 6
#: Those whose rows are the table's; mde projects them, see test_mde.py.
METHODS = sorted(set(ctr_module.METHODS) - {"mde"})


def selector(temperature: float = 0.7, seed: int = 0) -> TwinSelector:
    torch.manual_seed(seed)
    counts = torch.tensor([5, 0, 900, 400, 90, 40, 9, 4, 1])
    return TwinSelector(counts, D, SelectionConfig(temperature=temperature, hidden=(8,)))


def lower_triangle() -> torch.Tensor:
    return torch.tril(torch.ones(D, D))  # M[i, j] = 1 if j <= i


def test_soft_switch_mixes_the_twins() -> None:
    layer, ids = selector(), torch.arange(9)
    alpha = torch.sigmoid(switch_input(torch.tensor([5, 0, 900, 400, 90, 40, 9, 4, 1]), "zscore")).unsqueeze(1)
    s = layer.features
    expected = alpha * layer.high(s) + (1 - alpha) * layer.low(s)
    torch.testing.assert_close(layer.scores(ids), expected)


def test_mask_is_t_times_m() -> None:
    layer, ids = selector(), torch.arange(9)
    k = layer.scores(ids).argmax(dim=1)
    expected = F.one_hot(k, D).float() @ lower_triangle()
    assert torch.equal(layer.eval().mask(ids), expected)
    assert torch.equal(layer.train().mask(ids), expected)
    assert torch.equal(layer.mask(ids).sum(dim=1), layer.dims(ids).float())
    assert int(layer.dims(ids).min()) >= 1


def test_gradient_is_that_of_the_soft_selection() -> None:
    layer, ids = selector().train(), torch.arange(9)
    weight = torch.randn(9, D)
    (layer.mask(ids) * weight).sum().backward()
    found = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    t_hat = F.softmax(layer.scores(ids) / layer.temperature, dim=1)
    ((t_hat @ lower_triangle()) * weight).sum().backward()
    expected = [p.grad for p in layer.parameters() if p.grad is not None]
    assert len(found) == len(expected) == 8
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_one_branch_scores_from_one_mlp() -> None:
    torch.manual_seed(0)
    layer = OneBranchSelector(torch.tensor([5, 0, 900, 400]), D, SelectionConfig(hidden=(8,)))
    ids = torch.arange(4)
    torch.testing.assert_close(layer.scores(ids), layer.only(layer.features))
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == {"only"}


def test_without_the_estimator_the_mask_is_soft_in_training_and_hard_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = SoftTwinSelector(torch.tensor([5, 0, 900, 400]), D, SelectionConfig(hidden=(8,), temperature=0.7))
    ids = torch.arange(4)
    soft = F.softmax(layer.scores(ids) / 0.7, dim=1) @ lower_triangle()
    torch.testing.assert_close(layer.train().mask(ids), soft)
    assert set(layer.eval().mask(ids).unique().tolist()) <= {0.0, 1.0}
    layer.soft_evaluation = True
    torch.testing.assert_close(layer.mask(ids), soft)


@pytest.mark.parametrize("kind", [OneBranchSelector, TwinSelector, SoftTwinSelector])
def test_the_last_biases_shift_the_scores_alike(kind: type[Selector]) -> None:
    torch.manual_seed(0)
    layer = kind(torch.tensor([5, 0, 900, 400]), D, SelectionConfig(hidden=(8,)))
    ids, shift = torch.arange(4), torch.arange(D).float()
    before = layer.scores(ids).detach().clone()
    with torch.no_grad():
        for bias in layer.last_biases():
            bias.add_(shift)
    torch.testing.assert_close(layer.scores(ids), before + shift)


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=50))
def test_features_are_normalised_and_follow_frequency(counts: list[int]) -> None:
    values = torch.tensor(sorted(counts, reverse=True))
    s = frequency_features(values, ("log_count", "log_rank"))
    assert bool(s.isfinite().all())
    assert bool((s[:-1, 0] >= s[1:, 0]).all())
    assert bool((s[:-1, 1] >= s[1:, 1]).all())
    assert abs(float(s[:, 1].mean())) < 1e-4
    for norm in ("zscore", "minmax"):
        assert bool(switch_input(values, norm).isfinite().all())


def config(method: str = "amtl", **changes: object) -> ModelConfig:
    fields = (
        EmbeddedField("user", 40),
        EmbeddedField("kind", 5, governed=False),
        EmbeddedField("tags", 9, governed=False, padding=8),
        EmbeddedField("words", 30, padding=29, pool="sum"),
    )
    settings: dict[str, object] = {"embedded": fields, "numeric": (NumericField("age", 3.0, 2.0),), "dim": D}
    return ModelConfig(method=method, hidden=(8,), **(settings | changes))  # type: ignore[arg-type]


def build(method: str = "amtl", **changes: object) -> CtrModel:
    torch.manual_seed(0)
    made = config(method, **changes)
    return CtrModel(made, [torch.randint(1, 1000, (f.size,)) for f in made.embedded])


def frozen_rows(model: CtrModel) -> Tensor:
    assert isinstance(model.embedding, Freezable)
    return model.embedding.frozen_rows()


@pytest.mark.parametrize("method", METHODS)
def test_frozen_rows_are_what_lookup_answers(method: str) -> None:
    model = build(method).eval()
    rows, dims = frozen_rows(model), model.method.frozen_dims()
    for index, field in enumerate(model.config.embedded):
        ids = torch.arange(field.size).unsqueeze(1)
        looked_up = model.method.lookup(ids, (index,)).squeeze(1)
        start = model.method.offsets[index]
        assert torch.equal(looked_up, rows[start : start + field.size])
    past = torch.arange(D) >= dims.unsqueeze(1)
    assert bool((rows[past] == 0).all())
    padded = [model.method.offsets[i] + model.config.embedded[i].padding for i in model.config.multi]  # type: ignore[operator]
    assert dims[padded].tolist() == [0, 0]
    governed = dims[: model.config.embedded[0].size]
    assert int(governed.min()) >= 1


def test_selecting_distinct_ids_equals_selecting_all() -> None:
    """A batch smaller than the vocabulary selects per distinct id, a larger one for the whole vocabulary."""
    model = build().eval()
    few = torch.tensor([[7], [7], [39], [0]])
    many = torch.arange(40).unsqueeze(1).repeat(2, 1)
    found = model.method.lookup(few, (0,))
    assert torch.equal(found, model.method.lookup(many, (0,))[few[:, 0]])


def test_padding_costs_and_learns_nothing() -> None:
    model = build().train()
    ids, numeric = torch.randint(0, 5, (6, 2)), torch.randn(6, 1)
    short = [torch.tensor([[1], [2], [3], [0], [1], [2]]), torch.tensor([[1], [2], [3], [4], [5], [6]])]
    wide = [F.pad(short[0], (0, 3), value=8), F.pad(short[1], (0, 3), value=29)]
    model.eval()
    torch.testing.assert_close(model(ids, numeric, short), model(ids, numeric, wide), rtol=0, atol=0)
    model.train()
    model(ids, numeric, wide).sum().backward()
    table = model.get_parameter("embedding.table.weight")
    assert table.grad is not None
    for index in model.config.multi:
        padding = model.config.embedded[index].padding
        assert padding is not None
        row = model.method.offsets[index] + padding
        assert not bool(table.grad[row].any())
        assert not bool(table[row].any())


def test_mean_and_sum_pooling() -> None:
    model = build("fbe").eval()
    rows = frozen_rows(model)
    tags, words = model.method.offsets[2], model.method.offsets[3]
    ids = torch.tensor([[1, 3, 8]])
    mean = model._pooled(model.method, ids, 2)
    torch.testing.assert_close(mean[0], (rows[tags + 1] + rows[tags + 3]) / 2)
    total = model._pooled(model.method, torch.tensor([[1, 3, 29]]), 3)
    torch.testing.assert_close(total[0], rows[words + 1] + rows[words + 3])
    empty = model._pooled(model.method, torch.tensor([[8, 8]]), 2)
    assert not bool(empty.any())


def test_numbers_are_normalised_and_missing_ones_are_the_mean() -> None:
    model = build()
    assert model.numeric is not None
    found = model.numeric(torch.tensor([[5.0], [3.0], [float("nan")]]))
    assert found.flatten().tolist() == [1.0, 0.0, 0.0]
    far = model.numeric(torch.tensor([[1e30], [float("inf")], [-float("inf")]]))
    assert far.flatten().tolist() == [BOUND, BOUND, -BOUND]


def test_reserved_rows_that_training_never_sees_are_zero() -> None:
    counts = [torch.tensor([0, 0, *([3] * (f.size - 2))]) for f in config().embedded]
    model = CtrModel(config(), counts)
    assert isinstance(model.embedding, MaskedEmbedding)
    assert not bool(model.embedding.table.weight[0].any())
    assert bool(model.embedding.table.weight[2].any())
    never_seen = model.embedding.table.weight[:2].detach()
    assert not bool(never_seen.view(torch.int32).any())  # +0 in every bit


def test_config_survives_json() -> None:
    made = config(selection=SelectionConfig(features=("sqrt_count",), hidden=(3, 4), temperature=2.0, norm="minmax"))
    assert typed(ModelConfig, json.loads(json.dumps(made.to_json())), "here", "no model") == made


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 0}, "dim"),
        ({"dropout": 1.0}, "dropout"),
        ({"embedded": ()}, "at least one"),
        ({"embedded": (EmbeddedField("t", 3, padding=2), EmbeddedField("u", 3))}, "after single-valued"),
    ],
)
def test_config_refuses_contradictions(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(**changes)


def test_unknown_method_and_backbone_are_named() -> None:
    counts = [torch.ones(f.size, dtype=torch.int64) for f in config().embedded]
    with pytest.raises(ValueError, match=r"unknown method 'x'.*fbe, mde, autoemb, amtl, aml"):
        CtrModel(config("x"), counts)
    with pytest.raises(ValueError, match="unknown backbone 'y'"):
        CtrModel(config(backbone="y"), counts)


@pytest.mark.parametrize("method", ["amtl", "aml", "amtl_nste"])
def test_a_logits_shift_takes_dims_from_every_id(method: str) -> None:
    model = build(method).eval()
    assert isinstance(model.embedding, MaskedEmbedding)
    before = model.method.frozen_dims()
    shift_logits(model.embedding.last_biases(), 0.5)
    after = model.method.frozen_dims()
    assert bool((after <= before).all())
    assert bool((after[: model.config.embedded[0].size] >= 1).all())
    shift_logits(model.embedding.last_biases(), 100.0)
    assert int(model.method.frozen_dims()[: model.config.embedded[0].size].max()) == 1


def test_sampled_mean_dims_are_the_mean_dims() -> None:
    model = build().train()
    assert isinstance(model.embedding, MaskedEmbedding)
    dims = model.method.frozen_dims()
    words = slice(model.method.offsets[3], None)  # governed, its padding id counts here
    expected = torch.cat([dims[:40], dims[words][:-1]]).double().sum()
    found = model.embedding.sampled_mean_dims(1000)
    assert abs(float(found.detach()) * 70 - float(expected)) <= D
    found.backward()
    assert bool(model.get_parameter("embedding.selectors.0.high.2.weight").grad.any())  # type: ignore[union-attr]


@pytest.mark.parametrize("ratio", [1 / D, 0.3, 0.5, 0.8, 1.0])
def test_pruning_cuts_trailing_dims_by_magnitude(ratio: float) -> None:
    model = build("cut").eval()
    assert isinstance(model.embedding, PrunedEmbedding)
    governed = torch.cat([torch.arange(40), model.method.offsets[3] + torch.arange(29)])
    before = frozen_rows(model).clone()
    model.embedding.prune(ratio)
    dims = model.method.frozen_dims()[governed]
    mean = float(dims.double().mean())
    assert 1 <= mean <= ratio * D + 1e-9
    assert mean > ratio * D - D / len(governed) - 1e-9  # positions before one large number tie with it
    pairs = list(zip(before[governed], dims.tolist(), strict=True))
    cut = max((float(row[d:].abs().max()) for row, d in pairs if d < D), default=0.0)
    last = min((float(row[d - 1].abs()) for row, d in pairs if d > 1), default=float("inf"))
    assert cut <= last  # everything cut is smaller than everything that a row ends with
    kinds = slice(model.method.offsets[1], model.method.offsets[2])
    assert model.method.frozen_dims()[kinds].tolist() == [D] * 5


def test_what_was_pruned_learns_nothing() -> None:
    model = build("cut").train()
    assert isinstance(model.embedding, PrunedEmbedding)
    ids = torch.arange(40).unsqueeze(1)
    assert torch.equal(model.method.lookup(ids, (0,)).squeeze(1), model.embedding.table.weight[:40])
    model.embedding.prune(0.3)
    model.method.lookup(ids, (0,)).sum().backward()
    gradient = model.embedding.table.weight.grad
    assert gradient is not None
    past = torch.arange(D) >= model.method.frozen_dims().unsqueeze(1)
    assert not bool(gradient[past].any())
    assert bool(gradient[:40][~past[:40]].any())


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.2, 0.05, 0.4), (1.0, 0.85, 1.0)])
def test_ids_begin_near_the_initial_ratio(ratio: float, low: float, high: float) -> None:
    model = build(selection=SelectionConfig(initial_ratio=ratio))
    dims = model.method.frozen_dims()[:40].double()
    assert low * D <= float(dims.mean()) <= high * D
