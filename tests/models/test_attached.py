"""AMTL behind the embeddings of somebody else's model: nothing is lost, or nothing is changed."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, parametrize

from amtl_export import attach, count_ids, detach, dim_penalty, project_to_budget, selection_parameters
from amtl_export.models.attach import AttachedTable, attached_tables, is_attached
from amtl_export.models.config import SelectionConfig
from amtl_export.models.selection import OneBranchSelector, SoftTwinSelector

V, D = 40, 8
HALF = SelectionConfig(initial_ratio=0.5)


def falling(size: int = V) -> Tensor:
    return torch.arange(size, 0, -1)


def table_of(module: nn.Module) -> AttachedTable:
    assert isinstance(module, AttachedTable)
    return module


class Tied(nn.Module):
    """An item table that is read as an embedding, as the output layer, and by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.seen, self.out = nn.Embedding(V, D, padding_idx=0), nn.Embedding(V, D), nn.Linear(D, V)
        self.seen.weight = self.item.weight
        self.out.weight = self.item.weight
        self.other = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Any:
        hidden = self.item(ids) + self.seen(ids) + self.item.weight[ids] + F.embedding(ids, self.seen.weight)
        return hidden @ self.item.weight.T + self.out(hidden)


def tied(config: SelectionConfig | None = HALF) -> Any:
    return attach(Tied(), {"item": falling()}, config)


def with_rows(model: nn.Module, name: str, rows: Tensor) -> Any:
    """A plain copy of a model, its table replaced."""
    plain = detach(copy.deepcopy(model))
    plain.get_parameter(f"{name}.weight").data.copy_(rows)
    return plain


# What an embedding does


def compare(layer: nn.Embedding | nn.EmbeddingBag, *args: Any, **kwargs: Any) -> None:
    """Answers and gradients of an attached layer are the plain layer's with cut rows."""
    plain = copy.deepcopy(layer)
    attach(nn.ModuleDict({"layer": layer}), {"layer": falling(len(layer.weight))}, HALF)
    rows, dims = table_of(layer).frozen_rows(), table_of(layer).frozen_dims()
    assert 0 < float(dims.float().mean()) < layer.embedding_dim  # by chance an id may keep all
    plain.weight.data.copy_(rows)
    expected, answer = plain(*args, **kwargs), layer(*args, **kwargs)
    assert torch.equal(answer, expected)
    direction = torch.randn_like(answer)
    answer.backward(direction)
    expected.backward(direction)
    got, wanted = table_of(layer).table.grad, plain.weight.grad
    assert got is not None
    assert wanted is not None
    assert got.layout == wanted.layout
    kept = torch.arange(layer.embedding_dim) < dims.unsqueeze(1)
    torch.testing.assert_close(got.to_dense(), torch.where(kept, wanted.to_dense(), 0.0))


@pytest.mark.parametrize("padding", [None, 3, -1])
@pytest.mark.parametrize("how", [{}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_an_embedding_answers_as_its_cut_rows(padding: int | None, how: Any) -> None:
    ids = torch.randint(0, V, (7, 4))
    ids[2] = 3
    for given in (ids, ids.int(), ids[0], torch.empty(0, 3, dtype=torch.int64)):
        compare(nn.Embedding(V, D, padding_idx=padding, **how), given)
        compare(nn.Embedding(V, D, padding_idx=padding, **how), input=given)


@pytest.mark.parametrize("padding", [None, 3, -1])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("how", [{}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_a_bag_answers_as_its_cut_rows(mode: str, padding: int | None, how: Any) -> None:
    def bag(**more: Any) -> nn.EmbeddingBag:
        return nn.EmbeddingBag(V, D, mode=mode, padding_idx=padding, **how, **more)

    ids, flat = torch.randint(0, V, (7, 4)), torch.randint(0, V, (20,))
    ids[2] = 3
    offsets = torch.tensor([0, 2, 2, 5, 9, 9, 12, 18])
    compare(bag(), ids)
    compare(bag(), ids.int())
    compare(bag(), flat, offsets)
    compare(bag(), input=flat, offsets=offsets)
    compare(bag(include_last_offset=True), flat, torch.cat([offsets, torch.tensor([20])]))
    compare(bag(), torch.empty(0, dtype=torch.int64), torch.tensor([0, 0]))
    if mode == "sum" and "scale_grad_by_freq" not in how:
        compare(bag(), ids, per_sample_weights=torch.rand(7, 4))
        compare(bag(), input=flat, offsets=offsets, per_sample_weights=torch.rand(20))


def test_weights_per_sample_get_their_gradient() -> None:
    bag = nn.EmbeddingBag(V, D, mode="sum")
    attach(nn.ModuleDict({"bag": bag}), {"bag": falling()}, HALF)
    weights = torch.rand(2, 3, requires_grad=True)
    ids = torch.tensor([[1, 2, 3], [4, 5, 39]])
    bag(ids, per_sample_weights=weights).sum().backward()
    torch.testing.assert_close(weights.grad, table_of(bag).frozen_rows()[ids].sum(-1))


class Scaled(nn.Embedding):
    """Its own forward, on top of PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 3


class ByHand(nn.Embedding):
    """Its own forward, on the weight."""

    def forward(self, input: Tensor) -> Tensor:
        return self.weight[input].clamp(max=self.num_embeddings)


@pytest.mark.parametrize("kind", [Scaled, ByHand])
def test_a_subclass_keeps_its_forward(kind: type[nn.Embedding]) -> None:
    for sparse in (False, True):
        layer = kind(V, D, sparse=sparse)
        compare(layer, torch.randint(0, V, (5, 2)))
        assert isinstance(layer, kind)


@pytest.mark.parametrize("kind", [Scaled, ByHand])
@pytest.mark.parametrize("sparse", [False, True])
def test_selection_gets_gradients_through_any_forward(kind: type[nn.Embedding], sparse: bool) -> None:
    layer = kind(V, D, sparse=sparse)
    model = attach(nn.Sequential(layer), {"0": falling()})
    model(torch.arange(5)).pow(2).sum().backward()
    assert all(p.grad is not None for p in selection_parameters(model))
    assert bool(model.get_parameter("0.selector.high.2.weight").grad.any())  # type: ignore[union-attr]


def test_hooks_bound_methods_and_attributes_stay() -> None:
    table = nn.Embedding(V, D)
    table.register_forward_hook(lambda _, __, rows: rows * 3)
    table.note = "mine"  # type: ignore[assignment]
    look_up = table.forward
    seen: list[Tensor] = []
    table.weight.register_hook(seen.append)
    weight = table.weight
    attach(nn.Sequential(table), {"0": falling()}, HALF)
    rows = table_of(table).frozen_rows()
    assert torch.equal(table(torch.arange(V)), 3 * rows)
    assert torch.equal(look_up(torch.arange(V)), rows)
    assert str(table.note) == "mine"
    assert table.num_embeddings == V
    assert table_of(table).table is weight
    table(torch.arange(4)).sum().backward()
    assert len(seen) == 1


# One weight, one selector


def test_everyone_reads_the_masked_weight() -> None:
    model, ids = tied(), torch.randint(1, V, (6,))
    rows = table_of(model.item).frozen_rows()
    assert torch.equal(model.item.weight, rows)
    assert torch.equal(model.out.weight, rows)
    assert torch.equal(model.seen(ids), model.item(ids))
    assert torch.equal(model(ids), with_rows(model, "item", rows)(ids))
    assert len(selection_parameters(model)) == len(list(model.parameters())) - 3  # the table, a bias, the other table
    assert not is_attached(model.other)
    assert list(attached_tables(model)) == ["item"]


def test_gradients_reach_the_table_and_the_selection_from_everywhere() -> None:
    reads: list[Callable[[Any], Tensor]] = [
        lambda m: m.item(torch.arange(5)),
        lambda m: m.item.weight[:5],
        lambda m: m.out(torch.ones(1, D)),
    ]
    for read in reads:
        model = tied()
        read(model).pow(2).sum().backward()
        assert model.item.table.grad is not None
        assert all(p.grad is not None for p in selection_parameters(model))


def test_two_names_of_one_weight_need_equal_counts() -> None:
    model = attach(Tied(), {"item": falling(), "seen": falling()})
    assert len(selection_parameters(model)) == 8
    with pytest.raises(ValueError, match="seen and item share one weight, but their counts differ"):
        attach(Tied(), {"item": falling(), "seen": falling() + 1})


def test_two_names_of_one_module() -> None:
    table = nn.Embedding(V, D)
    model = nn.ModuleDict({"a": table, "b": table})
    attach(model, {"b": falling()})
    assert is_attached(model["a"])
    assert list(attached_tables(model)) == ["a"]


class TwoAliases(nn.Module):
    """A model that has both its tables as parameters of its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(20, D), nn.Embedding(V, D)
        self.user_rows, self.item_rows = self.user.weight, self.item.weight

    def forward(self, user: Tensor) -> Tensor:
        return self.user_rows[user] @ self.item_rows.T


def test_a_model_may_hold_two_tables_itself() -> None:
    model = attach(TwoAliases(), {"user": falling(20), "item": falling()}, HALF)
    user, item = table_of(model.user).frozen_rows(), table_of(model.item).frozen_rows()
    assert torch.equal(model(torch.arange(20)), user @ item.T)
    assert type(detach(model)) is TwoAliases
    assert [name for name, _ in model.named_modules()] == ["", "user", "item"]


class TiedSequence(nn.Sequential):
    """Runs all its submodules, so it must get no other."""

    def __init__(self, weight: Any) -> None:
        super().__init__(nn.Linear(D, D))
        self.weight = weight

    def forward(self, rows: Tensor) -> Any:
        hidden: Tensor = nn.Sequential.forward(self, rows)  # type: ignore[no-untyped-call]
        return hidden @ self.weight.T


def test_a_container_may_hold_a_table() -> None:
    table = nn.Embedding(V, D)
    head = TiedSequence(table.weight)
    attach(nn.ModuleList([table, head]), {"0": falling()}, HALF)
    rows = torch.rand(3, D)
    assert torch.equal(head(rows), head[0](rows) @ table_of(table).frozen_rows().T)
    assert [name for name, _ in head.named_parameters()] == ["weight", "0.weight", "0.bias"]


# The masked weight is a tensor, and not written to


WRITES: list[Callable[[Tensor], Any]] = [
    lambda w: w.zero_(),
    lambda w: w.__setitem__(0, 1.0),
    lambda w: w.__imul__(2),
    lambda w: w[3].fill_(0),
    lambda w: w.T.mul_(2),
    lambda w: w.view(-1)[3:4].add_(1),
    lambda w: torch.add(w, 1, out=w),
    lambda w: torch._foreach_add_([w], 1.0),
    nn.init.normal_,
    nn.init.xavier_uniform_,
]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_would_be_lost_is_refused(write: Callable[[Tensor], Any]) -> None:
    model = tied()
    before = model.item.table.detach().clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"item\.weight is attached.*write to item\.weight\.data"):
        write(model.item.weight)
    assert torch.equal(model.item.table, before)


def test_gradient_data_and_requires_grad_are_the_parameters() -> None:
    model = tied()
    weight = model.item.weight
    model(torch.arange(5)).sum().backward()
    assert model.item.weight.grad is model.item.table.grad is not None
    model.item.weight.grad = None
    assert model.item.table.grad is None
    model.item.weight.data[3] = 7.0
    assert bool((model.item.table[3] == 7).all())
    model.item.weight.requires_grad_(False)
    assert not model.item.table.requires_grad
    model.item.weight.requires_grad = True
    assert weight.requires_grad
    assert not isinstance(weight + 1, type(weight))
    assert "MaskedWeight" in repr(weight)
    with pytest.raises(ValueError, match="leaf"):
        torch.optim.SGD([model.item.weight], lr=1.0)
    with pytest.raises(TypeError, match="cannot assign"):
        model.item.weight = torch.zeros(V, D)


def test_an_error_within_the_selection_does_not_show_the_unmasked_weight() -> None:
    model = tied()
    del model.item.selector.high
    with pytest.raises(RuntimeError, match="masked weight weight cannot be computed"):
        _ = model.out.weight


@pytest.mark.parametrize("rows", [V + 20, V - 20])
@pytest.mark.parametrize(
    "read",
    [
        lambda item: item(torch.tensor([rows_of(item) - 1])),
        lambda item: item.weight,
        lambda item: table_of(item).frozen_dims(),
    ],
)
def test_a_table_replaced_by_one_of_other_rows_is_named(rows: int, read: Callable[[Any], Any]) -> None:
    model: Any = attach(nn.ModuleDict({"item": nn.Embedding(V, D)}), {"item": falling()})
    model.item.weight = nn.Parameter(torch.randn(rows, D))
    with pytest.raises(ValueError, match=rf"item has {rows} rows and was attached with {V} counts; detach, and attach"):
        read(model.item)
    again: Any = attach(detach(model), {"item": falling(rows)})
    assert read(again.item).numel()


def rows_of(item: Any) -> int:
    return len(table_of(item).table)


# PyTorch's own machinery


def test_state_dict_copies_and_pickles() -> None:
    model, ids = tied().eval(), torch.randint(0, V, (6,))
    assert "item.weight" in model.state_dict()
    assert model.state_dict()["item.selector.counts"].tolist() == falling().tolist()
    other = attach(Tied(), {"item": torch.ones(V, dtype=torch.int64)}).eval()
    assert not torch.equal(other(ids), model(ids))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(ids), model(ids))  # features follow the counts
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert type(twin.item) is type(model.item)
        assert torch.equal(twin(ids), model(ids))
        assert twin.item.table is twin.out._parameters["weight"] is not model.item.table
        assert len(selection_parameters(twin)) == 8
        for bias in twin.item.selector.last_biases():
            bias.data[0] = 100.0
        assert not bool(twin.out.weight[:, 1:].any())  # still one selection


def test_other_counts_of_another_size_are_no_state() -> None:
    state = attach(nn.Sequential(nn.Embedding(9, D)), {"0": falling(9)}).state_dict()
    with pytest.raises(RuntimeError, match=r"selector\.counts"):
        attach(nn.Sequential(nn.Embedding(V, D)), {"0": falling()}).load_state_dict(state)


def test_functional_call_and_transforms() -> None:
    model, ids = tied().eval(), torch.randint(0, V, (6,))
    double = {name: p.detach() * 2 if name == "item.weight" else p.detach() for name, p in model.named_parameters()}
    answers = functional_call(model, double, (ids,))
    expected = copy.deepcopy(model)
    expected.item.table.data.mul_(2)
    torch.testing.assert_close(answers, expected(ids))
    assert all(type(p) is nn.Parameter for p in model.parameters())
    gradients = grad(lambda parameters: functional_call(model.train(), parameters, (ids,)).pow(2).sum())(double)
    model.load_state_dict(double, strict=False)
    model(ids).pow(2).sum().backward()
    torch.testing.assert_close(gradients["item.weight"], model.item.table.grad)
    mapped = vmap(lambda one: functional_call(model, double, (one,)))(ids.unsqueeze(1))
    torch.testing.assert_close(mapped.squeeze(1), answers)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_compiled_exported_and_traced() -> None:
    model, ids = tied().eval(), torch.randint(0, V, (6,))
    expected = model(ids)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(ids), expected)
    assert torch.equal(torch.export.export(model, (ids,)).module()(ids), expected)
    assert torch.equal(torch.jit.trace(model, (ids,))(ids), expected)
    trained: Any = torch.compile(tied().train(), backend="aot_eager")
    trained(ids).sum().backward()
    assert all(p.grad is not None for p in selection_parameters(trained))


def test_attached_and_compiled_bag() -> None:
    model = attach(nn.Sequential(nn.EmbeddingBag(V, D, mode="mean", padding_idx=2)), {"0": falling()}, HALF).eval()
    ids = torch.randint(0, V, (6, 3))
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(ids), model(ids))


def test_data_parallel_replicas_read_masked_rows() -> None:
    model = tied()
    replica = model.item._replicate_for_data_parallel()
    replica.weight = model.item.table * 2  # what replicate() does: no parameter
    assert torch.equal(replica.weight, table_of(model.item).frozen_rows() * 2)
    wrapped = nn.DataParallel(Tied())
    attach(wrapped, {"module.item": falling()}, HALF)
    ids = torch.arange(1, 6)
    assert torch.equal(wrapped(ids), wrapped.module(ids))
    assert is_attached(wrapped.module.out)


def test_dims_are_the_same_under_autocast() -> None:
    model, ids = tied().eval(), torch.arange(V)
    dims = table_of(model.item).frozen_dims()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.item(ids), table_of(model.item).frozen_rows())
        assert torch.equal(table_of(model.item).frozen_dims(), dims)


# Refused, and nothing changed


class LowRank(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def changed(change: Callable[[nn.Embedding], Any]) -> Any:
    model = nn.ModuleDict({"item": nn.Embedding(V, D), "fine": nn.Embedding(V, D)})
    change(model["item"])  # type: ignore[arg-type]
    return model


class OwnSelector(nn.Embedding):
    def __init__(self) -> None:
        super().__init__(V, D)
        self.selector = nn.Linear(1, 1)


def hidden(**attributes: Callable[[nn.Parameter], Any]) -> nn.Module:
    model = nn.ModuleDict({"item": nn.Embedding(V, D), "fine": nn.Embedding(V, D), "reader": nn.Identity()})
    for name, keep in attributes.items():
        object.__setattr__(model["reader"], name, keep(model["item"].weight))  # type: ignore[arg-type]
    return model


def bypassing() -> nn.Module:
    model = nn.ModuleDict({"item": nn.Embedding(V, D), "fine": nn.Embedding(V, D), "reader": nn.Identity()})
    object.__setattr__(model["reader"], "look_up", model["item"].forward)
    return model


def tied_to(other: nn.Module) -> nn.Module:
    model = nn.ModuleDict({"item": nn.Embedding(V, D), "fine": nn.Embedding(V, D), "other": other})
    other.weight = model["item"].weight
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max_norm": (lambda: changed(lambda e: setattr(e, "max_norm", 1.0)), "item: max_norm rewrites rows"),
    "max_norm of a twin": (lambda: tied_to(nn.Embedding(V, D, max_norm=1.0)), "other: max_norm"),
    "mode max": (lambda: nn.ModuleDict({"item": nn.EmbeddingBag(V, D, mode="max")}), "item: .*mode max"),
    "parametrize": (
        lambda: changed(lambda e: parametrize.register_parametrization(e, "weight", LowRank())),
        "item: .*parametrized",
    ),
    "weight norm": (lambda: changed(lambda e: parametrizations.weight_norm(e, "weight")), "item: .*weight_norm"),
    "float16": (lambda: changed(lambda e: e.half()), r"item: .*torch\.float16; attach a float32 table, item\.float"),
    "bfloat16": (lambda: changed(lambda e: e.bfloat16()), r"item: .*torch\.bfloat16"),
    "float64": (lambda: changed(lambda e: e.double()), r"item: .*torch\.float64"),
    "attribute": (lambda: hidden(rows=lambda w: w), r"item: its weight is also kept in reader\.rows"),
    "list": (lambda: hidden(rows=lambda w: [1, w]), r"item: its weight is also kept in reader\.rows"),
    "bound method": (bypassing, r"item: a method of it is kept in reader\.look_up"),
    "own selector": (
        lambda: nn.ModuleDict({"item": OwnSelector()}),
        r"item \(OwnSelector\) has attributes that attaching adds: selector",
    ),
    "unknown": (
        lambda: nn.ModuleDict({"tags": nn.EmbeddingBag(V, D), "mix": nn.Linear(1, 1)}),
        "named item; the model has tags",
    ),
    "no embedding": (lambda: nn.ModuleDict({"item": nn.Linear(D, V)}), "named item; the model has none"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_kept_is_refused_and_nothing_changes(kind: str) -> None:
    build, message = REFUSED[kind]
    model = build()
    fields = {"fine": falling()} if "fine" in dict(model.named_modules()) else {}
    before = [(id(module), type(module), set(vars(module))) for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        attach(model, {**fields, "item": falling()})
    assert [(id(module), type(module), set(vars(module))) for module in model.modules()] == before
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


COUNTS: dict[str, tuple[Any, str]] = {
    "shape": (torch.ones(3, dtype=torch.int64), r"item: \(3,\) counts for 40 rows"),
    "matrix": (torch.ones(V, 1, dtype=torch.int64), r"item: \(40, 1\) counts for 40 rows"),
    "negative": (-falling(), "item: the count of row 0, -40, is negative"),
    "NaN": (torch.full((V,), float("nan")), "item: the count of row 0, nan, is NaN"),
    "infinite": (torch.full((V,), float("inf")), "item: the count of row 0, inf, is no whole number"),
    "fraction": (falling() + 0.5, r"item: the count of row 0, 40.5, is no whole number"),
    "bool": (torch.ones(V, dtype=torch.bool), r"item: counts are torch\.bool; give int64"),
}


@pytest.mark.parametrize("kind", list(COUNTS))
def test_counts_are_checked(kind: str) -> None:
    counts, message = COUNTS[kind]
    model = changed(nn.Module.train)
    with pytest.raises(ValueError, match=message):
        attach(model, {"fine": falling(), "item": counts})
    assert type(model["fine"]) is nn.Embedding


def test_whole_numbers_of_any_dtype_are_counts() -> None:
    forms: list[Any] = [falling().float(), falling().int(), falling().numpy(), falling().tolist()]
    for counts in forms:
        model = attach(nn.Sequential(nn.Embedding(V, D)), {"0": counts})
        assert torch.equal(model.get_buffer("0.selector.counts"), falling())


def test_attached_twice() -> None:
    model, ids = tied(), torch.arange(5)
    before = model(ids)
    for name in ("item", "seen"):
        with pytest.raises(ValueError, match=f"{name} is attached already"):
            attach(model, {name: falling()})
    assert torch.equal(model(ids), before)
    attach(model, {"other": falling(10)})  # another table may follow
    assert list(attached_tables(model)) == ["item", "other"]
    half = attach(TwoAliases(), {"user": falling(20)})
    with pytest.raises(ValueError, match="another table that is attached already; attach both in one call"):
        attach(half, {"item": falling()})


def test_sharded_and_wrapped_models(tmp_path: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        sharded = nn.Sequential(nn.Embedding(V, D))
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="0: weight is a DTensor, sharded"):
            attach(sharded, {"0": falling()})
        with pytest.raises(ValueError, match="DistributedDataParallel would not reduce new parameters"):
            attach(nn.parallel.DistributedDataParallel(Tied()), {"module.item": falling()})
        wrapped = nn.parallel.DistributedDataParallel(tied())
        wrapped(torch.arange(5)).sum().backward()
        assert all(p.grad is not None for p in selection_parameters(wrapped))
    finally:
        dist.destroy_process_group()


def test_compiled_models_are_refused() -> None:
    with pytest.raises(ValueError, match="compiled already; attach, then compile"):
        attach(torch.compile(Tied(), backend="eager"), {"_orig_mod.item": falling()})  # type: ignore[type-var]
    model = Tied()
    model.item.compile(backend="eager")
    with pytest.raises(ValueError, match="item is compiled already"):
        attach(model, {"item": falling()})


# Selection sets in with training


@pytest.mark.parametrize("selector", [None, OneBranchSelector, SoftTwinSelector])
@pytest.mark.parametrize("dim", [1, 2, D, 33])
def test_answers_are_the_models_own_to_begin_with(dim: int, selector: Any) -> None:
    model = nn.Sequential(nn.Embedding(V, dim), nn.Linear(dim, 1)).eval()
    before = model(torch.arange(V))
    attach(model, {"0": falling()}, *([SelectionConfig(), selector] if selector else []))
    assert torch.equal(model(torch.arange(V)), before)
    assert table_of(model[0]).frozen_dims().tolist() == [dim] * V


def fine_tune(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, budget: float | None = None) -> None:
    model.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, V, (32,), generator=generator)
        loss = (model(ids) - (ids.unsqueeze(1) % 3).float()).pow(2).mean()
        if budget is not None:
            loss = loss + dim_penalty(model, budget)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def small() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(V, D), nn.Linear(D, 1))


def test_selection_sets_in_with_training() -> None:
    torch.manual_seed(0)
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    attach(model, {"0": falling()})
    optimizer.add_param_group({"params": selection_parameters(model), "lr": 0.05})
    fine_tune(model, optimizer, 150, budget=0.5)
    dims = table_of(model[0]).frozen_dims()
    assert float(dims.float().mean()) < D
    assert float(model.get_buffer("0.selector.penalty_weight")) > 0


def test_a_ratio_is_where_dims_begin() -> None:
    dims = table_of(tied(SelectionConfig(initial_ratio=0.25)).seen).frozen_dims()
    assert 1 <= float(dims.float().mean()) <= 0.5 * D


def test_a_forgotten_selection_is_noticed() -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attach(model, {"0": falling()})
    with pytest.warns(
        UserWarning, match=r"0\.weight is attached .* optimizer\.add_param_group\(.*selection_param"
    ) as said:
        fine_tune(model, optimizer, 20)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine_tune(model, optimizer, 20)  # once


def test_a_projection_is_no_training() -> None:
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attach(model, {"0": falling()})
    fine_tune(model, optimizer, 5)
    project_to_budget(model, 0.5)
    with pytest.warns(UserWarning, match="optimizer"):
        fine_tune(model, optimizer, 20)


def test_a_forgotten_selection_of_a_fixed_table_is_noticed_later() -> None:
    model = attach(small(), {"0": falling()})
    table_of(model[0]).table.requires_grad_(False)
    optimizer = torch.optim.Adam(model[1].parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="optimizer"):
        fine_tune(model, optimizer, 1002)


@pytest.mark.parametrize("case", ["trained", "accumulated", "fixed", "warm-up", "evaluated"])
def test_no_false_alarm(case: str) -> None:
    model = attach(small(), {"0": falling()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0 if case == "warm-up" else 0.01)
    if case == "fixed":
        model[0].selector.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(60):
            if case == "evaluated":
                model.eval()
            model(torch.arange(4)).pow(2).sum().backward()
            if case != "accumulated" or step % 30 == 29:
                optimizer.step()
                optimizer.zero_grad()


# A budget


class TwoWidths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(30, 4), nn.Embedding(V, 12, padding_idx=0)

    def forward(self, user: Tensor, item: Tensor) -> Any:
        return self.user(user).sum(-1) + self.item(item).sum(-1)


@pytest.mark.parametrize("budget", [0.125, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("config", [None, HALF, SelectionConfig()])
def test_projected_to_the_budget(budget: float, config: SelectionConfig | None) -> None:
    torch.manual_seed(1)
    model = attach(TwoWidths(), {"user": falling(30), "item": falling()}, config)
    for parameter in selection_parameters(model):
        parameter.data += 0.1 * torch.randn_like(parameter)
    project_to_budget(model, budget)
    dims = torch.cat([table_of(model.user).frozen_dims(), table_of(model.item).frozen_dims()])
    width = (30 * 4 + V * 12) / (30 + V)
    assert float(dims[dims > 0].double().mean()) <= budget * width
    assert int(dims[1:].min()) >= 0
    assert int(table_of(model.item).frozen_dims()[0]) == 0  # padding


def test_a_budget_that_is_kept_changes_nothing_and_is_nearly_used() -> None:
    torch.manual_seed(0)
    model = attach(small(), {"0": falling()}, SelectionConfig(initial_ratio=0.8))
    for parameter in selection_parameters(model):
        parameter.data += 0.3 * torch.randn_like(parameter)
    project_to_budget(model, 0.5)
    dims = table_of(model[0]).frozen_dims()
    assert 0.3 * D < float(dims.double().mean()) <= 0.5 * D
    before = copy.deepcopy(model.state_dict())
    project_to_budget(model, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_penalty_grows_above_the_budget_and_falls_below() -> None:
    model = attach(small(), {"0": falling()}).train()
    weights = [float(dim_penalty(model, 0.5).detach()) for _ in range(5)]
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(0.02 * 0.5)
    dim_penalty(model, 0.5).backward()
    bias = model.get_parameter("0.selector.high.2.bias")
    assert bias.grad is not None
    assert float(bias.grad[-1]) > 0  # descent lowers the logit of all dims
    before = float(model.get_buffer("0.selector.penalty_weight"))
    project_to_budget(model, 0.25)
    dim_penalty(model, 0.5)
    assert float(model.get_buffer("0.selector.penalty_weight")) < before
    held = float(model.get_buffer("0.selector.penalty_weight"))
    dim_penalty(model.eval(), 0.9)
    assert float(model.get_buffer("0.selector.penalty_weight")) == held


def test_a_budget_under_autocast_is_the_same() -> None:
    torch.manual_seed(0)
    model = attach(small(), {"0": falling()}, SelectionConfig(initial_ratio=0.8)).train()
    twin = copy.deepcopy(model)
    expected = [dim_penalty(model, 0.3) for _ in range(3)][-1]
    project_to_budget(model, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [dim_penalty(twin, 0.3) for _ in range(3)][-1]
        project_to_budget(twin, 0.3)
    assert torch.equal(found, expected)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_budgets_that_cannot_be_kept_are_refused() -> None:
    model = attach(small(), {"0": falling()})
    before = copy.deepcopy(model.state_dict())
    for budget in (0.0, 0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"at most 1 and at least one dim an id, 0\.125; got"):
            project_to_budget(model, budget)
        with pytest.raises(ValueError, match="dim budget"):
            dim_penalty(model, budget)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="Sequential has no attached embedding"):
        dim_penalty(small(), 0.5)


# Counts from batches


class Reader(nn.Module):
    """Reads its tables in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(V, D, padding_idx=0)
        self.again = nn.Embedding(V, D)
        self.again.weight = self.item.weight
        self.bag = nn.EmbeddingBag(20, D, padding_idx=0)
        self.unread = nn.Embedding(3, D)

    def forward(self, item: Tensor, tags: Tensor, how: str = "call") -> Any:
        reads: dict[str, Callable[[], Tensor]] = {
            "call": lambda: self.item(item),
            "twin": lambda: self.again(item),
            "forward": lambda: self.item.forward(item),
            "function": lambda: F.embedding(item, self.item.weight),
            "index": lambda: self.item.weight[item],
            "select": lambda: self.item.weight.index_select(0, item),
            "torch": lambda: torch.index_select(self.item.weight, 0, item),
        }
        return reads[how]().sum() + self.bag(tags).sum()


@pytest.mark.parametrize("how", ["call", "twin", "forward", "function", "index", "select", "torch"])
@pytest.mark.parametrize("attached", [False, True])
def test_ids_are_counted_however_they_are_read(how: str, attached: bool) -> None:
    model = Reader()
    if attached:
        attach(model, {"item": falling(), "bag": falling(20)})
    item, tags = torch.randint(1, V, (50,)), torch.randint(0, 20, (50, 3))
    batches: list[Any] = [(item, tags, how), {"item": item.int(), "tags": tags, "how": how}]
    counts = count_ids(model, batches)
    assert list(counts) == ["item", "bag", "unread"]
    assert torch.equal(counts["item"], 2 * torch.bincount(item, minlength=V))
    expected = 2 * torch.bincount(tags.flatten(), minlength=20)
    expected[0] = 0  # padding
    assert torch.equal(counts["bag"], expected)
    assert not bool(counts["unread"].any())
    assert model.training
    assert is_attached(model.item) == attached
    assert list(count_ids(model, batches, ["again"])) == ["again"]
    with pytest.raises(ValueError, match="unread: no batch reads this table"):
        count_ids(model, batches, ["unread"])
    with pytest.raises(ValueError, match="named nothing; the model has item, again, bag, unread"):
        count_ids(model, batches, ["nothing"])


def test_counting_leaves_the_model_alone_when_it_fails() -> None:
    model = nn.Sequential(nn.Embedding(V, D), nn.BatchNorm1d(D))
    attach(model, {"0": falling()})
    running = model.get_buffer("1.running_mean").clone()
    with pytest.raises(IndexError):
        count_ids(model, [torch.arange(4), torch.tensor([V])])
    assert is_attached(model[0])
    assert model[1].training
    assert torch.equal(model.get_buffer("1.running_mean"), running)


def test_what_was_counted_can_be_attached() -> None:
    model = Reader()
    counts = count_ids(model, [(torch.arange(V), torch.ones(2, 2, dtype=torch.int64))])
    attach(model, counts)
    assert list(attached_tables(model)) == ["item", "bag", "unread"]


# Detached


def test_detach_gives_the_plain_model_back() -> None:
    model, plain = tied(), Tied()
    parameter, state = model.item.table, {name: p.clone() for name, p in model.state_dict().items()}
    assert detach(model) is model
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert [set(vars(module)) for module in model.modules()] == [set(vars(module)) for module in plain.modules()]
    assert model.item.weight is model.out.weight is parameter
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    attach(detach(model), {"item": falling()})
    assert is_attached(model.item)


def test_cut_rows_keep_the_answers() -> None:
    model, ids = tied().eval(), torch.randint(0, V, (9,))
    before, parameter = model(ids), model.item.table
    detach(model, cut=True)
    assert torch.equal(model(ids), before)
    assert model.item.weight is parameter
    assert not bool(model.item.weight[:, -1].any())
