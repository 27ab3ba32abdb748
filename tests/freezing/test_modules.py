"""Users' modules frozen: all but the tables is as it was, and every way to read a table reads the frozen rows."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.pooling import pool
from amtl_export.freezing.swap import freeze_module, thawed
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.validation.validate import validate

V, D = 30, 8


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Items(nn.Module):
    """A table, a layer, and what a test makes of them."""

    def __init__(self, answer: Callable[[Any, Tensor], Any] = lambda self, x: self.out(self.items(x))) -> None:
        super().__init__()
        self.items, self.out = nn.Embedding(V, D), nn.Linear(D, 1)
        self._answer = answer
        self.kept: Any = None
        self.lock: Any = None

    def forward(self, item: Tensor) -> Any:
        return self._answer(self, item)


def same(module: nn.Module, example: Any, config: ExportConfig | None = None, **more: Any) -> FrozenModel:
    """The frozen copy answers as the module, and holds no table of its own beside the frozen ones."""
    module.eval()
    frozen = freeze(module, example=example, **more)
    expected, found = frozen.trained_answers(frozen.example), frozen.answers(frozen.example)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    return frozen


def proven(frozen: FrozenModel, module: nn.Module, folder: Path, config: ExportConfig | None = None) -> Bundle:
    """Exported, and valid."""
    bundle = export(frozen, folder / "bundle", config)
    assert validate(bundle.path, module).problems == []
    return bundle


def stored(bundle: Bundle) -> int:
    """Bytes of the weights."""
    return (bundle.path / "model.onnx.data").stat().st_size


def test_nothing_of_the_module_is_changed() -> None:
    module = Items().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    frozen = freeze(module, example=ids(5))
    frozen.tables["items"].rows.zero_()
    assert module.training
    assert module.items.training
    assert type(module.items) is nn.Embedding
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_subclass_with_its_own_forward(tmp_path: Path) -> None:
    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 3

    module = Items()
    module.items = Scaled(V, D)
    frozen = same(module, ids(5))
    assert isinstance(frozen.module.model.get_submodule("items"), Scaled)
    proven(frozen, module, tmp_path)


def test_hooks_stay(tmp_path: Path) -> None:
    module = Items()
    module.items.register_forward_hook(lambda _module, _inputs, rows: rows * 2)
    module.items.register_forward_pre_hook(lambda _module, inputs: ((inputs[0] + 1) % V,))
    plain = module.out(module.items.weight[(ids(5) + 1) % V] * 2)
    frozen = same(module, ids(5))
    torch.testing.assert_close(torch.from_numpy(frozen.answers(frozen.example)["output"]), plain.detach())
    proven(frozen, module, tmp_path)


def test_two_modules_of_one_weight_store_it_once(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Embedding(V, D), nn.Embedding(V, D)
            self.two.weight = self.one.weight

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return (self.one(a) * self.two(b)).sum(-1)

    module = Two()
    frozen = same(module, (ids(5), ids(5, seed=1)))
    assert set(frozen.tables) == {"one"}
    bundle = proven(frozen, module, tmp_path)
    assert V * D * 4 <= bundle.report()["bytes_table"] < 2 * V * D * 4
    assert stored(bundle) < 2 * V * D * 4 + 4096


def test_the_same_module_twice(tmp_path: Path) -> None:
    module = Items(lambda self, x: self.out(self.items(x) * self.other(x.flip(0))))
    module.other = module.items
    frozen = same(module, ids(5))
    assert len(frozen.tables) == 1
    proven(frozen, module, tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        lambda self, x: self.items(x) @ self.items.weight.T,
        lambda self, x: self.out(F.embedding(x, self.items.weight)),
        lambda self, x: self.out(self.items.weight[x]),
        lambda self, x: self.out(self.items.weight.index_select(0, x)),
        lambda self, x: F.linear(self.items(x), self.items.weight),
        lambda self, x: self.out(self.items(x)) + self.items.weight.mean(),
    ],
    ids=["tied", "functional", "indexed", "index_select", "linear", "mean"],
)
@pytest.mark.parametrize("layout", ["auto", "dense", "paged", "ragged"])
def test_a_weight_that_is_read_past_its_module(tmp_path: Path, answer: Any, layout: Any) -> None:
    module = Items(answer)
    frozen = same(module, ids(5))
    assert frozen.unread == ()
    bundle = proven(frozen, module, tmp_path, ExportConfig(layout))
    assert stored(bundle) < 2 * V * D * 4 + 4096  # the table is there once


@pytest.mark.parametrize("before", [[], ["out"], ["out", "capped"]])
def test_another_parameter_that_holds_the_weight(tmp_path: Path, before: list[str]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = {"out": nn.Linear(D, V), "capped": nn.Embedding(V, D, max_norm=1.0), "items": nn.Embedding(V, D)}
            for name in dict.fromkeys([*before, "items", *parts]):
                self.add_module(name, parts[name])
                parts[name].weight = parts["items"].weight

        def forward(self, item: Tensor) -> Any:
            return self.get_submodule("out")(self.get_submodule("items")(item))

    module = Tied()
    frozen = same(module, ids(5))
    assert frozen.read_whole == {"items"}
    proven(frozen, module, tmp_path)


def bag(forward: Callable[..., Any], **settings: Any) -> nn.Module:
    module = nn.Module()
    module.bag = nn.EmbeddingBag(V, D, **settings)

    def answer(*inputs: Tensor) -> Any:
        return forward(module.bag, *inputs)

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = module.bag

        def forward(self, *inputs: Tensor) -> Any:
            return forward(self.bag, *inputs)

    return Bags()


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 0, 29, -1])
def test_bags_of_rows(tmp_path: Path, mode: str, padding: int | None) -> None:
    module = bag(lambda own, x: own(x), mode=mode, padding_idx=padding)
    example = ids(6, 4)
    example[0], example[1, 2:] = V - 1 if padding in (29, -1) else 0, 0
    frozen = same(module, (example,))
    proven(frozen, module, tmp_path)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_by_their_offsets(tmp_path: Path, mode: str, last: bool, padding: int | None) -> None:
    module = bag(
        lambda own, x, offsets: own(x, offsets), mode=mode, include_last_offset=last, padding_idx=padding
    ).eval()
    offsets = torch.tensor([0, 0, 3, 7, 7, *([12] if last else [])])  # bags 0 and 3 are empty
    example = ids(12)
    example[:3] = 3
    frozen = same(module, (example, offsets), dynamic_shapes={"inputs_0": {0: "values"}, "inputs_1": {0: "bags"}})
    proven(frozen, module, tmp_path)


def test_weights_of_each_id(tmp_path: Path) -> None:
    module = bag(lambda own, x, weights: own(x, per_sample_weights=weights), mode="sum", padding_idx=2)
    proven(same(module, (ids(6, 4), torch.rand(6, 4))), module, tmp_path)
    flat = bag(lambda own, x, o, weights: own(x, o, weights), mode="sum")
    same(flat, (ids(9), torch.tensor([0, 4]), torch.rand(9)), dynamic_shapes={"inputs_1": {0: "bags"}})


def test_no_bag_and_no_id() -> None:
    rows = torch.rand(0, D)
    for offsets in (torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64)):
        found = pool(rows, torch.tensor([], dtype=torch.int64), offsets, None, mode="mean", padding=None)
        assert torch.equal(found, torch.zeros(len(offsets), D))


def test_the_largest_of_a_bag_stays_what_it_is() -> None:
    module = bag(lambda own, x: own(x), mode="max")
    frozen = same(module, (ids(6, 4),))
    assert frozen.tables == {}


def test_rows_that_change_as_they_are_read_are_no_table() -> None:
    module = Items()
    module.items = nn.Embedding(V, D, max_norm=1.0)
    module.more = nn.Embedding(V, D)
    frozen = freeze(module.eval(), example=ids(5))
    assert "items" not in frozen.tables


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def test_a_weight_that_is_computed(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.users, self.out = nn.Embedding(V, D), nn.Embedding(V, D), nn.Linear(D, 1)
            parametrize.register_parametrization(self.items, "weight", Doubled())

        def forward(self, item: Tensor, user: Tensor) -> Any:
            return self.out(self.items(item) * self.users(user))

    module = Two()
    frozen = same(module, (ids(5), ids(5, seed=1)))
    assert set(frozen.tables) == {"users"}
    proven(frozen, module, tmp_path)


def test_weight_norm_of_a_layer_stays(tmp_path: Path) -> None:
    module = Items()
    module.out = torch.nn.utils.parametrizations.weight_norm(module.out)
    proven(same(module, ids(5)), module, tmp_path)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_are_refused(kind: torch.dtype) -> None:
    with pytest.raises(InputError, match=rf"(?s)not float32.*items\.weight.*{kind}.*module\.float\(\)"):
        freeze(Items().to(kind), example=ids(5))


def test_weights_without_data_are_refused() -> None:
    with torch.device("meta"):
        module = Items()
    with pytest.raises(InputError, match="no data"):
        freeze(module, example=ids(5))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, as it imports its compiler
def test_wrappers_are_taken_off() -> None:
    module = Items().eval()
    expected = freeze(module, example=ids(5))
    compiled: Any = torch.compile(module)
    for wrapper in (nn.DataParallel(module), compiled, nn.DataParallel(compiled)):
        frozen = freeze(wrapper, example={"item": ids(5)})
        assert set(frozen.tables) == {"items"}
        assert frozen.origin["backbone"] == "Items"
        np.testing.assert_array_equal(
            frozen.answers(frozen.example)["output"], expected.answers(expected.example)["output"]
        )
    with pytest.raises(InputError, match="TorchScript"):
        freeze(torch.jit.trace(module, ids(5)), example=ids(5))


def test_a_model_that_keeps_its_last_activation() -> None:
    def keeping(self: Any, x: Tensor) -> Any:
        self.kept = {"rows": [self.items(x)]}
        return self.out(self.kept["rows"][0])

    module = Items(keeping).train()
    module(ids(7)).sum().backward()
    kept = module.kept["rows"][0]
    frozen = freeze(module, example=ids(5))
    assert frozen.answers(frozen.example)["output"].shape == (5, 1)
    assert module.kept["rows"][0] is not None
    assert kept.grad_fn is not None


def test_a_table_that_is_not_read_is_named(tmp_path: Path) -> None:
    module = Items()
    module.spare = nn.Embedding(1000, D)
    frozen = same(module, ids(5))
    assert frozen.unread == ("spare",)
    assert set(frozen.tables) == {"items"}
    bundle = proven(frozen, module, tmp_path)
    assert bundle.report()["unread_tables"] == ["spare"]
    assert bundle.fields == ["items"]
    assert stored(bundle) < 1000 * D * 4


def test_a_branch_on_what_was_read(tmp_path: Path) -> None:
    class Branches(Items):
        def forward(self, x: Tensor) -> Any:
            rows = self.items(x)
            return torch.cond(rows.sum() > 0, lambda r: r * 2.0, lambda r: r - 1.0, (rows,)).sum(-1)

    module = Branches().eval()
    proven(same(module, ids(5)), module, tmp_path)


def test_what_cannot_be_copied_is_said() -> None:
    module = Items()
    module.lock = threading.Lock()
    with pytest.raises(InputError, match=r"(?s)cannot be copied.*Items.*lock"):
        freeze(module, example=ids(5))


def test_a_forward_that_fails_on_the_example() -> None:
    said = (
        rf"(?s)fails on its example.*Items.*index out of range.*items has {V:,} rows, ids 0 to {V - 1}, and was given "
    )
    with pytest.raises(InputError, match=said):
        freeze(Items().eval(), example=ids(5) + V)


def test_a_failing_forward_of_one_mapping_says_how_to_give_it() -> None:
    def of_mapping(self: Any, batch: Any) -> Any:
        return self.out(self.items(batch["item"]))

    module = Items(of_mapping)
    with pytest.raises(InputError, match=r"(?s)fails on its example.*one mapping"):
        freeze(module, example={"ids": ids(5)})
    assert freeze(module, example=({"item": ids(5)},)).outputs == ("output",)


def test_an_output_without_a_name_is_refused() -> None:
    for answer, wanted in ((lambda self, x: {"": self.out(self.items(x))}, None), (Items()._answer, [""])):
        with pytest.raises(InputError, match="output has an empty name"):
            freeze(Items(answer), example=ids(5), outputs=wanted)


def test_outputs_by_their_names() -> None:
    def many(self: Any, x: Tensor) -> Any:
        rows = self.items(x)
        return {"score": self.out(rows), "parts": [rows, rows * 2], "none": None}

    module = Items(many).eval()
    assert freeze(module, example=ids(5)).outputs == ("score", "parts_0", "parts_1")
    assert freeze(module, example=ids(5), outputs=["a", "b", "c"]).outputs == ("a", "b", "c")
    for wrong in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(InputError, match=r"(?s)another number of names.*3 names"):
            freeze(module, example=ids(5), outputs=wrong)
    pair = Items(lambda self, x: (self.out(self.items(x)), None)).eval()
    with pytest.raises(InputError, match=r"(?s)named output is None.*state"):
        freeze(pair, example=ids(5), outputs=["score", "state"])


def test_a_padding_row_of_zeros_has_no_dims() -> None:
    module = Items()
    module.items = nn.Embedding(V, D, padding_idx=4)
    table = freeze_module(module).get_submodule("items.frozen_table")
    assert isinstance(table, FrozenEmbedding)
    assert table.dims.tolist() == [0 if row == 4 else D for row in range(V)]
    with torch.no_grad():
        module.items.weight[4] = 1
    again = freeze(module.eval(), example=ids(5)).tables["items"]
    assert int(again.dims[4]) == D
    assert float(again.rows[4, 0]) == 1


class Halves(nn.Module):
    """Somebody else's method: takes part by the protocol alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))
        self.sizes, self.offsets = (4, 2), (0, 4)

    def lookup(self, ids: Tensor, fields: Any) -> Tensor:
        return self.frozen_rows()[ids + torch.tensor([self.offsets[f] for f in fields])]

    def frozen_rows(self) -> Tensor:
        return self.weight * (torch.arange(4) < 2)

    def frozen_dims(self) -> Tensor:
        return torch.full((6,), 2)


def test_a_method_of_ones_own_in_a_module_of_ones_own(tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = Halves()

        def forward(self, pair: Tensor) -> Tensor:
            return self.table.lookup(pair, (0, 1)).sum((1, 2))

    module = Mine()
    frozen = same(module, torch.tensor([[0, 1], [3, 0], [2, 1]]))
    bundle = proven(frozen, module, tmp_path)
    assert [own.size for own in bundle.signature.fields] == [4, 2]


def test_thawed_it_is_the_users_own_again() -> None:
    module = Items(lambda self, x: self.items(x) @ self.items.weight.T).eval()
    made = thawed(freeze_module(module))
    assert type(made.get_submodule("items")) is nn.Embedding
    assert torch.equal(made(ids(5)), module(ids(5)))
