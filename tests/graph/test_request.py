"""Request and candidate inputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.bundle import open_bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compare import TOLERANCE
from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary
from amtl_export.errors import InputError
from amtl_export.files import write_sums
from amtl_export.freezing.fields import run_inputs
from amtl_export.freezing.frozen import FrozenModel, freeze, of_trained
from amtl_export.graph.inputs import as_request, graph_inputs, one_request
from amtl_export.graph.passes.hoist_request import HoistRequest
from amtl_export.graph.passes.state_linear_layers import StateLinearLayers
from amtl_export.graph.passes.state_shapes import StateShapes
from amtl_export.graph.pipeline import lower
from amtl_export.graph.trace import trace
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField
from amtl_export.models.ctr import BACKBONES, CtrModel
from amtl_export.runtime.session import open_session
from amtl_export.spec import Feed, rows_of
from amtl_export.tables.plan import lay_out_all, plan
from amtl_export.tables.values import quantize
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances

FIELDS = (
    EmbeddedField("user", 20),
    EmbeddedField("item", 30),
    EmbeddedField("hour", 5),
    EmbeddedField("shop", 7),
    EmbeddedField("tags", 9, padding=8, pool="mean"),
    EmbeddedField("history", 30, padding=29, pool="sum", shares="item"),
)
NUMBERS = (NumericField("age", 30.0, 9.0), NumericField("price", 2.0, 1.5, "log1p"), NumericField("stars", 3.0, 1.0))

#: What may be the request's: columns between others, sequences, numbers, all but one field, one field alone.
REQUESTS = (
    ("user",),
    ("user", "hour"),
    ("item", "age"),
    ("history",),
    ("user", "hour", "history", "age", "stars"),
    ("user", "hour", "shop", "tags", "history", "age", "price", "stars"),
    ("user", "item", "hour", "shop", "age"),
    ("age", "price", "stars"),
)


def small_model(backbone: str) -> FrozenModel:
    torch.manual_seed(0)
    config = ModelConfig(FIELDS, NUMBERS, dim=4, method="fbe", backbone=backbone, hidden=(24, 8), cross_layers=2)
    model = CtrModel(config, [torch.arange(field.size, 0, -1) for field in FIELDS])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.where(parameter != 0, torch.randn_like(parameter) * 0.5, 0.0))  # padding rows stay
    values = {f.name: pl.Series(range(f.size - 2 - (f.padding is not None))) for f in FIELDS}
    vocabularies = {
        f.name: Vocabulary(f.name, values[f.name], np.arange(f.size, 0, -1), f.padding is not None) for f in FIELDS
    }
    schema = Schema(label="click", fields=tuple(FieldSchema(name=f.name, kind="categorical") for f in FIELDS))
    return of_trained(model.eval(), config, schema, vocabularies, {"method": "fbe", "backbone": backbone})


def some_rows(batch: int) -> Feed:
    rng = np.random.default_rng(0)
    single = [rng.integers(-1, field.size + 1, batch) for field in FIELDS if field.padding is None]
    numbers = rng.normal(2.0, 3.0, (batch, 3)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.2] = np.nan
    multi = {field.name: rng.integers(0, field.size, (batch, 3)) for field in FIELDS if field.padding is not None}
    feed: Feed = {"ids": np.stack(single, axis=1), "numeric": numbers}
    return feed | multi


def lowered(frozen: FrozenModel, fields: tuple[str, ...], config: ExportConfig, folder: Path) -> Path:
    inputs = graph_inputs(frozen.inputs, fields)
    graph, plans = trace(frozen, inputs), plan(frozen, config)
    tables = lay_out_all(frozen, quantize(frozen, dict.fromkeys(plans, "fp32")), plans)
    lower(graph, plans, tables, config, [spec.name for spec in inputs if spec.shared])
    ir.save(graph, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("fields", REQUESTS, ids=",".join)
def test_candidates_of_a_request_score_as_rows_do(tmp_path: Path, backbone: str, fields: tuple[str, ...]) -> None:
    model = small_model(backbone)
    inputs = graph_inputs(model.inputs, fields)
    config = ExportConfig("ragged", first_layer="fused") if "item" not in fields else ExportConfig("dense")
    path = lowered(model, fields, config, tmp_path)
    rows = one_request(some_rows(7), inputs)
    request = as_request(rows, inputs)
    assert {name for name, values in request.items() if len(values) == 1} == {i.name for i in inputs if i.request}
    expected = model.answers(rows)["logit"]
    for optimized in (True, False):
        session = open_session(path, optimized=optimized)
        np.testing.assert_allclose(session.run(["logit"], request)[0], expected, rtol=0, atol=TOLERANCE)
        assert session.run(["logit"], rows_of(request, inputs, slice(0)))[0].shape == (0,)


@pytest.mark.parametrize(
    ("backbone", "repeats", "gemms"),
    [("dnn", 0, 4), ("widedeep", 0, 6), ("deepfm", 0, 6), ("dcnv2", 3, 7)],
)
def test_nothing_of_the_request_is_repeated_where_the_algebra_allows(backbone: str, repeats: int, gemms: int) -> None:
    model = small_model(backbone)
    inputs = graph_inputs(model.inputs, ("user", "hour", "history", "age"))
    graph = trace(model, inputs)
    hoist = HoistRequest([spec.name for spec in inputs if spec.shared])
    assert hoist(StateLinearLayers()(StateShapes()(graph))).modified
    kinds = [node.op_type for node in graph.graph]
    assert kinds.count("Expand") == repeats
    assert kinds.count("Gemm") == gemms
    lookups = [node for node in graph.graph if node.op_type == "Lookup"]
    looked_up = [ids.name for node in lookups if (ids := node.inputs[1]) is not None]
    assert set(looked_up) == {"request_ids", "history", "ids", "tags"}


@pytest.mark.parametrize("layout", ["dense", "paged", "ragged"])
@pytest.mark.parametrize("backbone", ["dnn", "deepfm", "dcnv2"])
def test_a_bundle_of_candidates_is_proven_like_any_other(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig], layout: str, backbone: str
) -> None:
    data = "synthetic:rows=2000,values=60,rank=4,tags=12"
    run = train(tiny_train(data=data, backbone=backbone, epochs=1), tmp_path / "run")
    names = [field.name for field in run.model_config.embedded]
    request = (names[0], names[2], run.model_config.numeric[0].name) if run.model_config.numeric else names[:3:2]
    config = ExportConfig(layout, request_fields=tuple(request))  # type: ignore[arg-type]
    bundle = export(freeze(run), tmp_path / "bundle", config)
    assert sorted(bundle.signature.request_fields) == sorted(request)
    assert bundle.fields == names
    assert bundle.signature.inputs == graph_inputs(run_inputs(run.model_config), request)
    verdict = validate(bundle.path, run.path)
    assert verdict.problems == []
    assert verdict.rows_bit_equal == verdict.rows_checked
    assert verdict.hostile_ids_checked
    assert "given once per request" in (bundle.path / "README.md").read_text(encoding="utf-8")


def test_a_half_of_a_weight_that_was_changed_is_found(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(epochs=1), tmp_path / "run")
    fields = tuple(field.name for field in run.model_config.embedded[:2])
    bundle = export(freeze(run), tmp_path / "bundle", ExportConfig("dense", request_fields=fields))
    halves = [t for t in bundle.proto().graph.initializer if t.name.startswith("columns/") and ".weight" in t.name]
    assert len(halves) == 2
    data = bundle.path / "model.onnx.data"
    whole = data.read_bytes()
    for half in halves:
        offset = next(int(entry.value) for entry in half.external_data if entry.key == "offset")
        spoilt = np.frombuffer(whole[offset : offset + 4], np.float32) + np.float32(1e-6)
        data.write_bytes(whole[:offset] + spoilt.tobytes() + whole[offset + 4 :])
        write_sums(bundle.path)
        problems = validate(bundle.path, run.path, tolerances=Tolerances(auc_atol=1.0, logit_atol=1.0)).problems
        assert any("differ from the run's" in problem and "columns/" in problem for problem in problems), problems


class Tower(nn.Module):
    """A user's vector against items: what the user's share is computed with stands in the way, or not."""

    def __init__(self, stops: bool) -> None:
        super().__init__()
        self.item, self.user, self.stops = nn.Embedding(30, 4), nn.Linear(4, 4), stops

    def forward(self, user: Tensor, items: Tensor) -> Tensor:
        vector = user.cumsum(dim=1) if self.stops else self.user(user)
        score: Tensor = (vector * self.item(items)).sum(dim=1)
        return score


@pytest.mark.parametrize("stops", [False, True])
def test_a_request_that_nothing_can_be_hoisted_for_is_refused(tmp_path: Path, stops: bool) -> None:
    torch.manual_seed(0)
    example = {"user": torch.rand(8, 4), "items": torch.randint(0, 30, (8,))}
    frozen = freeze(Tower(stops).eval(), example=example)
    config = ExportConfig("dense", request_fields=("user",))
    if not stops:
        assert "Expand" not in export(frozen, tmp_path / "bundle", config).report()["ops"]
        return
    with pytest.raises(InputError, match="nothing can be computed once per request") as caught:
        export(frozen, tmp_path / "bundle", config)
    assert "nearest: CumSum cumsum: no rule says" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_unknown_fields_and_nothing_left_are_errors(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(epochs=1), tmp_path / "run")
    config = run.model_config
    everything = (*(field.name for field in config.embedded), *(field.name for field in config.numeric))
    for fields, said in ((("nobody",), "unknown fields"), (everything, "would all be alike")):
        with pytest.raises(InputError, match=said):
            export(freeze(run), tmp_path / "bundle", ExportConfig(request_fields=fields))
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(InputError):
        open_bundle(tmp_path / "bundle")
