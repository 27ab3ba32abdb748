"""Lookups of users' modules: ids of any rank, computed or constant, tables read whole, matrices that are no tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export import load
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.graph.facts import SCOPES, TABLE, TRANSPOSED, WEIGHT, fact, module_of, scopes_of
from amtl_export.graph.weights import Part
from amtl_export.validation.provenance import load_graph
from amtl_export.validation.validate import validate

Proven = Callable[[nn.Module, dict[str, Any], ExportConfig], Bundle]


@pytest.fixture
def proven(tmp_path: Path) -> Proven:
    """Exports a module and validates the bundle against it."""

    def prove(module: nn.Module, example: dict[str, Any], config: ExportConfig) -> Bundle:
        bundle = export(freeze(module.eval(), example=example), tmp_path / "bundle", config)
        verdict = validate(bundle.path, module, example)
        assert verdict.problems == []
        assert verdict.rows_bit_equal == verdict.rows_checked
        return bundle

    return prove


LAYOUTS = (
    ExportConfig("dense"),
    ExportConfig("dense", "int8"),
    ExportConfig("dense", "int4"),
    ExportConfig("paged"),
    ExportConfig("paged", "fp16"),
    ExportConfig("blocks"),
    ExportConfig("ragged", first_layer="plain"),
    ExportConfig("ragged", "int8", first_layer="fused"),
    ExportConfig("ragged", "int4", first_layer="fused"),
    ExportConfig("dense", id_policy="trust"),
)


class Kinds(nn.Module):
    """Every way to read a table that the passes tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.position = nn.Embedding(50, 8), nn.Embedding(4, 8)
        self.project = nn.Linear(8, 8, bias=False)
        self.weight, self.bias = nn.Parameter(torch.randn(16, 5)), nn.Parameter(torch.randn(5))

    def forward(self, one: Tensor, many: Tensor, three: Tensor) -> tuple[Tensor, ...]:
        alone, summed = self.item(one), self.item(three).sum(dim=(1, 2))
        sequence = (self.item(many) + self.position(torch.arange(4))).sum(dim=1)  # constant ids
        computed = self.item((one + 1) % 50)
        projected = F.embedding(many, self.project(self.item.weight)).mean(dim=1)  # a matrix that is no table
        scores = (alone + summed + sequence + projected) @ self.item.weight.T  # a table read whole
        layer = torch.cat([alone, computed], dim=1) @ self.weight + self.bias  # no nn.Linear
        return scores, layer, self.item(many).sum(dim=-2)


def kinds_example() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "one": torch.randint(0, 50, (6,)),
        "many": torch.randint(0, 50, (6, 4)),
        "three": torch.randint(0, 50, (6, 2, 3)),
    }


@pytest.mark.parametrize("config", LAYOUTS, ids=lambda c: f"{c.layout}-{c.dtype}-{c.first_layer}-{c.id_policy}")
def test_every_kind_of_lookup(proven: Proven, config: ExportConfig) -> None:
    bundle = proven(Kinds(), kinds_example(), config)
    inputs = {site.input for site in bundle.signature.lookups if site.table == "item"}
    assert {"one", "many", "three", ""} <= inputs
    assert len(inputs) == 5  # and those that are computed
    assert {site.table for site in bundle.signature.lookups} == {"item", "position"}


@pytest.mark.parametrize("fields", [("one",), ("many", "three"), ("many",)], ids=",".join)
@pytest.mark.parametrize("layout", ["dense", "ragged"])
def test_every_kind_of_lookup_of_a_request(proven: Proven, layout: Any, fields: tuple[str, ...]) -> None:
    proven(Kinds(), kinds_example(), ExportConfig(layout, first_layer="plain", request_fields=fields))


class Summed(nn.Module):
    """Rows of the same ids added up, and as they are; a table of which a second one is read with the same ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tag, self.weight, self.user = nn.Embedding(30, 6), nn.Embedding(30, 1), nn.Embedding(40, 6)

    def forward(self, tags: Tensor, user: Tensor) -> Tensor:
        rows = self.tag(tags)
        pooled = self.tag(tags).sum(dim=1) / (tags != 0).sum(dim=1, keepdim=True).clamp(min=1)
        wide: Tensor = self.weight(tags).mean(dim=1).squeeze(-1)
        answer: Tensor = wide + (pooled * self.user(user).squeeze(1)).sum(dim=1) + rows.square().sum(dim=(1, 2))
        return answer


UNFUSED = [config for config in LAYOUTS if config.layout != "ragged"]


@pytest.mark.parametrize("config", UNFUSED, ids=lambda config: f"{config.layout}-{config.dtype}-{config.id_policy}")
def test_sums_of_few_values_from_narrow_tables(proven: Proven, config: ExportConfig) -> None:
    torch.manual_seed(0)
    example = {"tags": torch.randint(0, 30, (32, 5)), "user": torch.randint(0, 40, (32, 1))}
    bundle = proven(Summed(), example, config)
    turned = [node for node in load_graph(bundle.model).graph if node.op_type == "Transpose"]
    assert [str(node.inputs[0].name) for node in turned if node.inputs[0]] == ["tags"]  # once for both tables
    session, whole = bundle.session(), {name: tensor.numpy() for name, tensor in example.items()}
    (together,) = session.run(None, whole)
    for rows in (1, 3):
        (some,) = session.run(None, {name: array[:rows] for name, array in whole.items()})
        np.testing.assert_array_equal(some, together[:rows])


class Stacked(nn.Module):
    """A table for each column, in the middle of what the layer reads; one layer read twice, with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(40, 4), nn.Embedding(60, 8)
        self.up, self.shared = nn.Linear(15, 6), nn.Linear(8, 6)

    def forward(self, user: Tensor, item: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
        first = self.up(torch.cat([numbers, self.user(user), self.item(item)], dim=1))
        twice = self.shared(self.item(item)) * self.shared(self.item(other))
        answer: Tensor = (first * twice).sum(dim=1)
        return answer


@pytest.mark.parametrize(
    "config", [ExportConfig("ragged", first_layer="fused"), ExportConfig("ragged", "int8", layer_dtype="int8")]
)
def test_a_layer_is_fused_wherever_the_rows_are(proven: Proven, config: ExportConfig) -> None:
    torch.manual_seed(0)
    example = {
        "user": torch.randint(0, 40, (32,)), "item": torch.randint(0, 60, (32,)), "other": torch.randint(0, 60, (32,)),
        "numbers": torch.rand(32, 3),
    }  # fmt: skip
    bundle = proven(Stacked(), example, config)
    nodes = [node.op_type for node in bundle.proto().graph.node]
    assert nodes.count("RaggedLinear") + nodes.count("RaggedLinearInt8") == 3
    graph = load_graph(bundle.model).graph
    parts = [part for v in graph.initializers.values() if (part := Part.described(v)) and part.weight == "up.weight"]
    assert {part.columns for part in parts} >= {tuple(range(7, 15)), tuple(range(7))}


def test_facts_survive_saving_and_loading(proven: Proven) -> None:
    bundle = proven(Kinds(), kinds_example(), ExportConfig("ragged", first_layer="fused"))
    graph = load_graph(bundle.model).graph
    values = list(graph.initializers.values())
    assert {fact(value, TABLE) for value in values} == {None, "item", "position"}
    assert {"weight", "bias"} <= {fact(value, WEIGHT) for value in values}
    turned = next(value for value in values if fact(value, TRANSPOSED))
    part = Part.described(turned)
    assert part is not None
    assert (part.weight, part.transposed) == ("weight", True)
    project = next(node for node in graph if module_of(node) == "project")
    assert (project.op_type, scopes_of(project)[0]) == ("Gemm", "project")
    assert all("model" not in node.metadata_props.get(SCOPES, "") for node in graph)


class Factors(nn.Module):
    """Matrix factorization: tables, and nothing else that has a number in it."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(40, 8), nn.Embedding(60, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        answer: Tensor = (self.user(user) * self.item(item)).sum(dim=1)
        return answer


@pytest.mark.parametrize("target", ["portable", "native"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
def test_a_model_of_tables_alone(proven: Proven, target: Any, dtype: Any) -> None:
    torch.manual_seed(0)
    example = {"user": torch.randint(0, 40, (16,)), "item": torch.randint(0, 60, (16,))}
    proven(Factors(), example, ExportConfig(dtype=dtype, target=target))


class Indexed(nn.Module):
    """Ids index a parameter."""

    def __init__(self, *, table: bool) -> None:
        super().__init__()
        self.rows, self.out = nn.Parameter(torch.randn(40, 8)), nn.Linear(8, 1)
        if table:
            self.item = nn.Embedding.from_pretrained(self.rows)

    def forward(self, item: Tensor) -> Tensor:
        scores: Tensor = self.out(self.item(item) if hasattr(self, "item") else self.rows[item])
        return scores


def test_a_model_without_tables_is_told_what_makes_one(proven: Proven, tmp_path: Path) -> None:
    example = {"item": torch.randint(0, 40, (16,))}
    with pytest.raises(InputError, match=r"(?s)no embedding table.*no nn.Embedding.*nn.Embedding.from_pretrained"):
        export(freeze(Indexed(table=False), example=example), tmp_path / "none")
    with pytest.raises(InputError, match=r"(?s)no table can be cut.*forward calls with ids: table\(ids\)$"):
        compress(freeze(Indexed(table=False), example=example), dim_budget=0.5)
    capped = nn.Sequential(nn.Embedding(40, 8, max_norm=1.0), nn.Linear(8, 1))
    with pytest.raises(InputError, match="0: max_norm rewrites its rows"):
        export(freeze(capped, example=(example["item"],)), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    proven(Indexed(table=True), example, ExportConfig())


class QuotientRemainder(nn.Module):
    """Two small tables for many ids; `torch.div` of whole numbers, in both of its rounding modes."""

    def __init__(self) -> None:
        super().__init__()
        self.quotient, self.other = nn.Embedding(64, 8), nn.Embedding(64, 8)
        self.remainder, self.out = nn.Embedding(1000, 8), nn.Linear(8, 1)

    def forward(self, item: Tensor) -> Tensor:
        floor = torch.div(item, 1000, rounding_mode="floor") % 64
        trunc = torch.div(item, torch.tensor(77), rounding_mode="trunc") % 64
        rows = self.quotient(floor) * self.other(trunc) * self.remainder(item % 1000)
        answer: Tensor = self.out(rows).squeeze(1)
        return answer


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_whole_numbers_are_divided_exactly(proven: Proven, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    largest = torch.iinfo(kind).max
    ids = torch.cat([torch.randint(-largest, largest, (32,)), torch.tensor([0, largest, 1 << 24, (1 << 24) + 1])])
    proven(QuotientRemainder(), {"item": ids.to(kind)}, ExportConfig())


class Squeezed(nn.Module):
    """`squeeze(dim)` of axes that are not 1, which PyTorch leaves as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.out = nn.Embedding(60, 8), nn.Linear(16, 3)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.item(items).squeeze(1)
        return hidden.squeeze(-1), self.out(hidden.flatten(1)).squeeze(1).unsqueeze(1).squeeze(1)


@pytest.mark.parametrize("layout", ["dense", "ragged"])
def test_a_squeeze_that_does_nothing_is_dropped(proven: Proven, layout: Any) -> None:
    torch.manual_seed(0)
    bundle = proven(Squeezed(), {"items": torch.randint(0, 60, (16, 2))}, ExportConfig(layout))
    for node in ir.from_proto(bundle.proto()).graph:
        squeezed = node.inputs[0]
        assert squeezed is None or squeezed.shape is None or node.op_type != "Squeeze" or squeezed.shape[1] == 1


class NamedAsGraphsName(nn.Module):
    """Inputs called as values without a name are in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.users, self.out = nn.Embedding(60, 8), nn.Embedding(60, 8), nn.Linear(16, 1)

    def forward(self, val_0: Tensor, val_1: Tensor) -> Any:
        return self.out(torch.cat([self.items(val_0), self.users(val_1)], 1))


def test_inputs_may_be_called_as_values_of_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = NamedAsGraphsName().eval(), {f"val_{i}": torch.randint(0, 60, (16,)) for i in range(2)}
    small = compress(freeze(module, example=example), dim_budget=0.5)
    bundle = export(small, tmp_path / "bundle")
    assert validate(bundle.path, small).problems == []
    assert [value.name for value in load_graph(bundle.model).graph.inputs] == ["val_0", "val_1"]


class Attention(nn.Module):
    """Attention over a history, by one head or two; an empty one gives nothing."""

    def __init__(self, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.items, self.heads, self.causal = nn.Embedding(60, 8, padding_idx=0), heads, causal

    def forward(self, history: Tensor) -> Tensor:
        rows, mask = self.items(history), (history != 0).unsqueeze(1)
        if self.heads > 1:
            rows, mask = rows.unflatten(-1, (self.heads, -1)).transpose(1, 2), mask.unsqueeze(1)
        settings: dict[str, Any] = {"is_causal": True, "scale": 0.1} if self.causal else {"attn_mask": mask}
        return F.scaled_dot_product_attention(rows, rows, rows + 1, **settings).sum(dim=-2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_to_an_empty_history(heads: int, causal: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attention(heads, causal=causal).eval()
    example = {"history": torch.randint(1, 60, (16, 6)).masked_fill(torch.arange(6) > 3, 0)}
    bundle = export(freeze(model, example=example), tmp_path / "bundle")
    history = torch.tensor([[0] * 6, [5, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    found = load(bundle.path).predict({"history": history.numpy()})["output"]
    np.testing.assert_allclose(found, model(history).detach().numpy(), atol=1e-5)


class Encoder(nn.Module):
    """What an encoder gives for the last position, padded or not."""

    def __init__(self, *, causal: bool, norm: bool) -> None:
        super().__init__()
        self.items, self.causal = nn.Embedding(60, 8, padding_idx=0), causal
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8) if norm else None)

    def forward(self, history: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(6) if self.causal else None
        padding = torch.zeros(history.shape).masked_fill(history == 0, -torch.inf)
        rows: Tensor = self.encoder(self.items(history), mask, padding)
        return rows[:, -1]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(("causal", "norm"), [(False, False), (False, True), (True, False)])
def test_an_encoder_of_padded_histories(causal: bool, norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Encoder(causal=causal, norm=norm).eval()
    if norm:
        nn.init.normal_(model.get_parameter("encoder.norm.bias"))
    bundle = export(freeze(model, example={"history": torch.randint(1, 60, (16, 6))}), tmp_path / "bundle")
    for history in (
        torch.tensor([[5, 9, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0] * 6][: 2 if causal else 3]),
        torch.tensor([[0, 0, 0, 3, 4, 5], [1, 2, 3, 4, 5, 6]])[causal:],
    ):
        found = load(bundle.path).predict({"history": history.numpy()})["output"]
        with torch.no_grad():
            np.testing.assert_allclose(found, model(history).numpy(), atol=1e-5)
