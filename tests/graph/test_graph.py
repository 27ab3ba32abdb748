"""The exported graph itself: dynamic shapes, layouts, id policies, other people's backbones."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, of_trained
from amtl_export.models import ctr as ctr_module
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField
from amtl_export.models.ctr import CtrModel
from amtl_export.spec import Feed
from amtl_export.traffic.draw import draw


def feed_of(frozen: FrozenModel, batch: int, length: int = 4, distribution: Any = "zipf") -> Feed:
    return draw(frozen.config, frozen.vocabularies, batch, np.random.default_rng(batch), distribution, length)


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("optimized", [True, False])
def test_any_batch(bundle: Bundle, frozen: FrozenModel, batch: int, optimized: bool) -> None:
    session = bundle.session(optimized=optimized)
    feed = feed_of(frozen, batch, distribution="uniform")
    logit, probability = session.run(["logit", "probability"], feed)
    assert logit.shape == probability.shape == (batch,)
    np.testing.assert_allclose(logit, frozen.answers(feed)["logit"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit.astype(np.float64))), atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 2, 31])
def test_any_number_of_values(bundle: Bundle, frozen: FrozenModel, length: int) -> None:
    feed = feed_of(frozen, 5)
    feed["tags"] = np.full((5, length), 2, dtype=np.int64)
    (logit,) = bundle.session().run(["logit"], feed)
    np.testing.assert_allclose(logit, frozen.answers(feed)["logit"], atol=1e-5, rtol=0)


def test_dimensions_are_named(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.model), load_external_data=False)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "ids": ["batch", 3],
        "numeric": ["batch", 1],
        "tags": ["batch", "length_tags"],
        "logit": ["batch"],
        "probability": ["batch"],
    }


def test_standard_operators_only_and_no_machine_in_it(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.model), load_external_data=False)
    own = {"ai.amtl"} if bundle.signature.layout == "ragged" else set()
    assert {node.domain for node in model.graph.node} == {"", *own}
    assert {opset.domain for opset in model.opset_import} == {"", *own}
    used = {node.op_type for node in model.graph.node if node.domain == "ai.amtl"}
    assert {function.name for function in model.functions} == used | ({"RaggedGather"} if own else set())
    calls = {node.op_type for function in model.functions for node in function.node if node.domain != ""}
    assert calls <= {"RaggedGather"}
    text = bundle.model.read_bytes()
    assert b"site-packages" not in text
    assert b".py" not in text
    assert bytes(str(Path.home()), "utf-8") not in text


def test_pooled_rows_are_not_put_down(bundle: Bundle) -> None:
    pooled = [site for site in bundle.signature.lookups if site.input == "tags"]
    counts = bundle.report()["ops"]
    if bundle.signature.layout != "ragged":
        assert [site.layer for site in pooled] == [""]
        assert counts["ReduceSum"] == bundle.report()["ops_traced"]["ReduceSum"]
        return
    assert [site.layer for site in pooled] == ["lookup/embedding/tags/sum"]
    assert counts["RaggedSum"] == 1
    assert counts["ReduceSum"] == bundle.report()["ops_traced"]["ReduceSum"] - 1


def test_large_tensors_are_external(bundle: Bundle) -> None:
    model = onnx.load(str(bundle.model), load_external_data=False)
    inline = [t.name for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    assert all(sizes[name] <= 32 for name in inline)
    assert any(name.startswith("table/") for name in sizes)


def test_one_table_serves_all_fields(bundle: Bundle, frozen: FrozenModel) -> None:
    model = onnx.load(str(bundle.model), load_external_data=False)
    tables = [t.name for t in model.graph.initializer if t.name.startswith("table/") and len(t.dims) == 2]
    cut = len(bundle.report()["plan"]["embedding"]["block_widths"] or [])
    assert len(tables) == {"dense": 1, "paged": 2, "blocks": cut, "ragged": 1}[bundle.signature.layout]


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 130)] * 3), max_size=8))
def test_any_int64_id_is_answered_as_pytorch_does(
    paged_bundle: Bundle, frozen: FrozenModel, ids: list[tuple[int, ...]]
) -> None:
    feed = feed_of(frozen, len(ids))
    feed["ids"] = np.array(ids, dtype=np.int64).reshape(len(ids), 3)
    (logit,) = paged_bundle.session().run(["logit"], feed)
    np.testing.assert_allclose(logit, frozen.answers(feed)["logit"], atol=1e-5, rtol=0)


def test_trust_leaves_the_guard_out(tmp_path: Path, frozen: FrozenModel) -> None:
    trusted = export(frozen, tmp_path / "b", ExportConfig(layout="paged", id_policy="trust"))
    guarded = export(frozen, tmp_path / "g", ExportConfig(layout="paged"))
    ops = [bundle.report()["ops"] for bundle in (trusted, guarded)]
    assert "GreaterOrEqual" not in ops[0]
    assert ops[1]["GreaterOrEqual"] == 2
    props = {p.key: p.value for p in onnx.load(str(trusted.model), load_external_data=False).metadata_props}
    assert props["amtl.id_policy"] == "trust"
    feed = feed_of(frozen, 9)
    np.testing.assert_array_equal(trusted.session().run(None, feed)[0], guarded.session().run(None, feed)[0])


def test_a_page_width_that_does_not_divide_the_row(tmp_path: Path, frozen: FrozenModel) -> None:
    bundle = export(frozen, tmp_path / "b", ExportConfig(layout="paged", page_width=5))
    assert bundle.report()["ops"]["Slice"] == 2
    feed = feed_of(frozen, 9)
    np.testing.assert_allclose(bundle.session().run(["logit"], feed)[0], frozen.answers(feed)["logit"], atol=1e-5)


class Gated(nn.Module):
    """A backbone of somebody else's: products, a softmax, a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, 1)
        self.out = nn.Linear(config.dim, 1)

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        weight = torch.softmax(self.gate(rows), dim=1)
        pooled = (rows * weight).sum(dim=1) + rows.prod(dim=1)
        logit: Tensor = self.out(pooled).squeeze(-1)
        return logit if numeric is None else logit + numeric.sum(dim=1)


class Counting(Gated):
    """Cannot be exported: its result depends on data in Python."""

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        steps = int(rows.sum().item())
        return super().forward(rows, numeric) * (steps if steps > 3 else 2)


def small(
    monkeypatch: pytest.MonkeyPatch, backbone: type[nn.Module], frozen: FrozenModel, **changes: Any
) -> FrozenModel:
    """A frozen model with another backbone, or other kinds of inputs."""
    monkeypatch.setitem(ctr_module.BACKBONES, "other", backbone)
    embedded = tuple(EmbeddedField(f.name, f.size, f.governed, f.padding) for f in frozen.config.embedded)
    settings: dict[str, Any] = {"embedded": embedded, "dim": 12, "backbone": "other", "numeric": frozen.config.numeric}
    config = ModelConfig(**(settings | changes))
    vocabularies = {f.name: frozen.vocabularies[f.name] for f in config.embedded}
    torch.manual_seed(1)
    model = CtrModel(config, [torch.from_numpy(v.counts) for v in vocabularies.values()])
    return of_trained(model.eval(), config, frozen.schema, vocabularies, frozen.origin | {"backbone": "other"})


def test_any_backbone_passes(tmp_path: Path, frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    other = small(monkeypatch, Gated, frozen)
    bundle = export(other, tmp_path / "b", ExportConfig(layout="paged"))
    feed = feed_of(other, 33)
    np.testing.assert_allclose(bundle.session().run(["logit"], feed)[0], other.answers(feed)["logit"], atol=1e-5)


def test_a_backbone_that_cannot_pass_is_named(
    tmp_path: Path, frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="where: other") as caught:
        export(small(monkeypatch, Counting, frozen), tmp_path / "b")
    assert "torch.export" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kinds", ["single", "multi", "single+numeric", "multi+numeric"])
def test_models_without_some_inputs(
    tmp_path: Path, frozen: FrozenModel, monkeypatch: pytest.MonkeyPatch, kinds: str
) -> None:
    fields = tuple(f for f in frozen.config.embedded if f.multi_valued == ("multi" in kinds))
    numeric = (NumericField("age", 35.0, 10.0, "log1p"),) if "numeric" in kinds else ()
    other = small(monkeypatch, Gated, frozen, embedded=fields, numeric=numeric)
    bundle = export(other, tmp_path / "b", ExportConfig(layout="paged"))
    names = {tensor.name for tensor in bundle.signature.inputs}
    assert names == {"tags" if "multi" in kinds else "ids"} | ({"numeric"} if numeric else set())
    feed = feed_of(other, 17)
    np.testing.assert_allclose(bundle.session().run(["logit"], feed)[0], other.answers(feed)["logit"], atol=1e-5)
