"""Lookups fused with the layer that reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.files import write_sums
from amtl_export.freezing.frozen import freeze
from amtl_export.models.attach import attach
from amtl_export.models.config import SelectionConfig
from amtl_export.tables.plan import LayerDtype
from amtl_export.tables.values import SCALED, VALUE_TYPES, ValueType
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances

FUSED = ExportConfig("ragged", first_layer="fused")


@pytest.mark.parametrize(
    ("backbone", "data", "fused", "rows_stay"),
    [
        ("dnn", "synthetic:rows=2000,values=60", 1, False),
        ("dnn", "synthetic:rows=2000,values=60,rank=4,tags=12", 1, False),
        ("deepfm", "synthetic:rows=2000,values=60", 1, True),
        ("dcnv2", "synthetic:rows=2000,values=60", 2, True),
        ("autoint", "synthetic:rows=2000,values=60", 1, True),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "layer_dtype"), [("fp32", "fp32"), ("int8", "fp32"), ("int8", "int8"), ("int4", "int8")]
)
def test_is_fused(
    tmp_path: Path,
    tiny_train: Callable[..., TrainConfig],
    backbone: str,
    data: str,
    fused: int,
    rows_stay: bool,
    dtype: ValueType,
    layer_dtype: LayerDtype,
) -> None:
    run = train(tiny_train(data=data, backbone=backbone, epochs=1), tmp_path / "run")
    config = ExportConfig("ragged", dtype, first_layer="fused", layer_dtype=layer_dtype)
    bundle = export(freeze(run), tmp_path / "bundle", config)
    report = bundle.report()
    assert report["ops"].get("RaggedLinear" if layer_dtype == "fp32" else "RaggedLinearInt8", 0) == fused
    assert bundle.signature.layer_dtype == layer_dtype
    lookups = [site for site in bundle.signature.lookups if site.input == "ids" and site.table == "embedding"]
    assert [bool(site.layer) for site in lookups] == [not rows_stay]
    verdict = validate(bundle.path, run.path, tolerances=Tolerances(auc_atol=0.01))
    assert verdict.problems == []
    assert verdict.rows_bit_equal == verdict.rows_checked


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (FUSED, ("panels/", "columns/")),
        (ExportConfig("ragged", "int8", first_layer="fused", layer_dtype="int8"), ("quantized_12/", "columns/")),
    ],
)
def test_a_weight_that_was_changed_is_found(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig], config: ExportConfig, parts: tuple[str, ...]
) -> None:
    run = train(tiny_train(epochs=1), tmp_path / "run")
    bundle = export(freeze(run), tmp_path / "bundle", config)
    names = {tensor.name.partition("/")[0] for tensor in bundle.proto().graph.initializer}
    for part in parts:
        assert part.rstrip("/") in names
        tensor = next(t for t in bundle.proto().graph.initializer if t.name.startswith(part))
        location = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key in ("offset", "length")}
        data = bundle.path / "model.onnx.data"
        whole = data.read_bytes()
        spoilt = bytes([whole[location["offset"]] ^ 1])
        data.write_bytes(whole[: location["offset"]] + spoilt + whole[location["offset"] + 1 :])
        write_sums(bundle.path)
        problems = validate(bundle.path, run.path).problems
        assert any("differ from the run's" in problem and part in problem for problem in problems), problems
        data.write_bytes(whole)


class TwoTables(nn.Module):
    """Somebody's model: a lookup, then a linear layer, twice, the second one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.user = nn.Embedding(300, 16), nn.Embedding(200, 8)
        self.up, self.down, self.out = nn.Linear(32, 20), nn.Linear(8, 20, bias=False), nn.Linear(20, 1)

    def forward(self, items: Tensor, user: Tensor) -> Tensor:
        hidden = torch.relu(self.up(self.item(items).flatten(1)) + self.down(self.user(user)))
        logit: Tensor = self.out(hidden).squeeze(-1)
        return logit


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoTables()
    attach(
        model, {"item": torch.arange(300, 0, -1), "user": torch.arange(200, 0, -1)}, SelectionConfig(initial_ratio=0.5)
    )
    model.eval()
    example = {"items": torch.randint(0, 300, (64, 2)), "user": torch.randint(0, 200, (64,))}
    configs = [ExportConfig("ragged", dtype, first_layer="fused") for dtype in VALUE_TYPES]
    configs += [ExportConfig("ragged", dtype, first_layer="fused", layer_dtype="int8") for dtype in SCALED]
    for i, config in enumerate(configs):
        bundle = export(freeze(model, example=example, outputs=["logit"]), tmp_path / str(i), config)
        assert validate(bundle.path, model, example).problems == []
        nodes = operators(bundle)
        assert nodes.count("RaggedLinear") + nodes.count("RaggedLinearInt8") == 2
        assert nodes.count("RaggedGather") == 0


def operators(bundle: Bundle) -> list[str]:
    return [node.op_type for node in bundle.proto().graph.node]


def test_a_relu_behind_it_is_part_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(50, 8), nn.Flatten(), nn.Linear(24, 33), nn.ReLU(), nn.Linear(33, 2), nn.Flatten(0)
    )
    attach(model, {"0": torch.arange(50, 0, -1)}, SelectionConfig(initial_ratio=0.5))
    model.eval()
    example = {"ids": torch.randint(0, 50, (32, 3))}
    bundle = export(freeze(model, example=example, outputs=["out"]), tmp_path / "bundle", FUSED)
    assert validate(bundle.path, model, example).problems == []
    assert operators(bundle) == ["RaggedLinear", "Gemm", "Reshape"]


class Bare(nn.Module):
    """A lookup and a layer that are the graph's outputs themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.up = nn.Embedding(60, 8), nn.Linear(16, 5)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.item(items)
        return rows, torch.relu(self.up(rows.flatten(1)))


@pytest.mark.parametrize("config", [ExportConfig("dense"), ExportConfig("paged"), FUSED])
def test_outputs_that_are_replaced_keep_their_names(tmp_path: Path, config: ExportConfig) -> None:
    torch.manual_seed(0)
    model = Bare()
    attach(model, {"item": torch.arange(60, 0, -1)}, SelectionConfig(initial_ratio=0.5))
    model.eval()
    example = {"items": torch.randint(0, 60, (16, 2))}
    bundle = export(freeze(model, example=example, outputs=["rows", "hidden"]), tmp_path / "bundle", config)
    assert validate(bundle.path, model, example).problems == []
    assert ("RaggedLinear" in operators(bundle)) == (config is FUSED)


class NoFirstLayer(nn.Module):
    """One layer reads each row by itself, another one the product of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.each, self.out = nn.Embedding(60, 8), nn.Linear(8, 4), nn.Linear(4, 1)

    def forward(self, items: Tensor) -> Tensor:
        logit: Tensor = self.out(self.each(self.item(items)).prod(dim=1)).squeeze(-1)
        return logit


class NoLayer(nn.Module):
    """A factorisation machine."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(60, 8)

    def forward(self, items: Tensor) -> Tensor:
        logit: Tensor = self.item(items).prod(dim=1).sum(dim=1)
        return logit


@pytest.mark.parametrize(
    ("model", "nearest"),
    [
        (NoFirstLayer(), ["Gemm", "of out", "the result of ReduceProd, not rows as they are looked up"]),
        (NoLayer(), ["no node that it could apply to"]),
    ],
)
def test_a_layer_that_cannot_be_fused_is_named(tmp_path: Path, model: nn.Module, nearest: list[str]) -> None:
    example = {"items": torch.randint(0, 60, (16, 2))}
    with pytest.raises(InputError, match="no linear layer can be fused") as caught:
        export(freeze(model.eval(), example=example), tmp_path / "bundle", FUSED)
    assert all(words in str(caught.value) for words in nearest), str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_the_weight_is_stored_once(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(epochs=1), tmp_path / "run")
    plain = export(freeze(run), tmp_path / "plain", ExportConfig("ragged", first_layer="plain"))
    fused = export(freeze(run), tmp_path / "fused", FUSED)
    names = {tensor.name for tensor in fused.proto().graph.initializer}
    assert not any(name.startswith("model.backbone.layers.1.weight") for name in names)
    assert fused.bytes() <= plain.bytes() + 8192  # pages that external data begins on


def test_the_bundle_says_what_it_was(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(epochs=1), tmp_path / "run")
    export(freeze(run), tmp_path / "bundle", FUSED)
    bundle = open_bundle(tmp_path / "bundle")
    plan = bundle.report()["plan"]["embedding"]
    assert (plan["layout"], plan["fused"], plan["dtype"]) == ("ragged", True, "fp32")
    assert plan["bytes"] == bundle.report()["bytes_table"]
