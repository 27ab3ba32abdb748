"""Layers in int8: the same bits in standard operators, in a function body and in PyTorch; alone and in any batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from amtl_export.bundle.export import ExportConfig, build, export, write_model
from amtl_export.bundle.value_types import auc_changes, choose_dtype
from amtl_export.errors import InputError
from amtl_export.files import write_sums
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.linear_int8 import (
    CROSS_INT8,
    LINEAR_INT8,
    SIGNED,
    UNSIGNED,
    Activation,
    function,
    weight_panels,
    weight_scales,
    zero_offsets,
)
from amtl_export.graph.quantized_linear import QuantizedLinear, quantizable
from amtl_export.graph.ragged import NO_LEAST
from amtl_export.native import DOMAIN
from amtl_export.runtime.session import open_session
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances

Array = np.ndarray[Any, Any]

#: Toy runs of a few hundred examples: one pair that turns round is much of their AUC.
LOOSE = Tolerances(auc_atol=0.05)


def layer(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(inputs * 1000 + outputs)
    return nn.Linear(inputs, outputs)


def node_of(linear: nn.Linear, activation: Activation, least: float, *, cross: bool = False) -> bytes:
    """A node alone, with its function body."""
    weight, inputs, outputs = linear.weight.detach().numpy(), linear.in_features, linear.out_features
    offsets = zero_offsets(weight) if activation.zero else np.zeros(outputs, np.int32)
    arrays: dict[str, Array] = {
        "weights": weight_panels(weight),
        "scales": weight_scales(weight),
        "offsets": offsets,
        "bias": linear.bias.detach().numpy(),
    }
    kind, names = (CROSS_INT8, ["x", *arrays, "x0"]) if cross else (LINEAR_INT8, ["x", *arrays])
    node = helper.make_node(kind, names, ["y"], domain=DOMAIN, zero=activation.zero, least=least)
    given = [name for name in names if name not in arrays]
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", inputs]) for name in given],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", outputs])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    bodies = [ir.serde.serialize_function(function(name)) for name in dict.fromkeys((LINEAR_INT8, kind))]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=bodies)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def session_of(model: bytes, *, native: bool, optimized: bool = True) -> Any:
    return open_session(model, optimized=optimized, native=None if native else False)


def examples(inputs: int, activation: Activation) -> Array:
    """Usual numbers, and rows of zeros, of one number, tiny, huge, and not finite."""
    x = np.random.default_rng(inputs).standard_normal((40, inputs)).astype(np.float32)
    x = x if activation.zero else np.maximum(x, 0)
    x[3], x[4, 1:] = 0, 0
    x[5] *= 1e-38
    x[6] *= 1e30
    x[7, -1], x[8, 0], x[9, 0] = np.nan, np.inf, -np.inf
    return x


def torch_answer(linear: nn.Linear, activation: Activation, x: Array) -> Array:
    with torch.no_grad():
        answer: Array = QuantizedLinear(linear, activation)(torch.from_numpy(x)).numpy()
    return answer


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
@pytest.mark.parametrize("activation", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 16), (10, 17), (1, 1), (300, 40)])
def test_a_node_is_pytorchs_layer_to_the_bit(inputs: int, outputs: int, activation: Activation, native: bool) -> None:
    linear, x = layer(inputs, outputs), examples(inputs, activation)
    expected = torch_answer(linear, activation, x)
    assert np.isnan(expected[7:10]).all()
    assert np.isfinite(expected[:7]).all()
    for optimized in (True, False):
        session = session_of(node_of(linear, activation, NO_LEAST), native=native, optimized=optimized)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
        alone = [session.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))]
        np.testing.assert_array_equal(np.concatenate(alone), expected)
        assert session.run(None, {"x": x[:0]})[0].shape == (0, outputs)


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
def test_a_bound_is_a_relu(native: bool) -> None:
    linear, x = layer(24, 20), examples(24, SIGNED)
    expected = torch.relu(torch.from_numpy(torch_answer(linear, SIGNED, x))).numpy()
    found = session_of(node_of(linear, SIGNED, 0.0), native=native).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, expected)
    assert (found == 0).any()


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
def test_a_cross_is_dcnv2s(native: bool) -> None:
    linear, x = layer(24, 24), examples(24, SIGNED)
    x0 = np.random.default_rng(1).standard_normal((len(x), 24), np.float32)
    found = session_of(node_of(linear, SIGNED, NO_LEAST, cross=True), native=native).run(None, {"x": x, "x0": x0})[0]
    np.testing.assert_array_equal(found, x0 * torch_answer(linear, SIGNED, x) + x)


def test_what_the_layer_multiplies_is_near_what_it_should() -> None:
    linear = layer(256, 64)
    x: Array = np.maximum(np.random.default_rng(0).standard_normal((500, 256), np.float32), np.float32(0))
    exact: Array = linear(torch.from_numpy(x)).detach().numpy()
    found = torch_answer(linear, UNSIGNED, x)
    assert 1e-4 < np.abs(found - exact).max() < 0.05 * exact.std()


CONFIGS = {
    "portable": ExportConfig("dense", layer_dtype="int8"),
    "native": ExportConfig(target="native", layer_dtype="int8"),
    "native-int8": ExportConfig(target="native", dtype="int8", layer_dtype="int8"),
}


@pytest.fixture(scope="module", params=["dnn", "deepfm", "dcnv2", "autoint"])
def wide_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]
) -> Run:
    """A run whose hidden layers are worth int8 in both targets."""
    data = "synthetic:rows=1500,values=60,tags=0"
    config = tiny_train(data=data, backbone=request.param, dim=16, hidden=(160, 136), epochs=1)
    return train(config, tmp_path_factory.mktemp("wide") / "run")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_example_alone_is_answered_as_in_any_batch(wide_run: Run, config: ExportConfig, tmp_path: Path) -> None:
    frozen = freeze(wide_run)
    built = build(frozen, config)
    write_model(built.model, tmp_path)
    feed = {name: values[:200] for name, values in frozen.example.items()}
    for native in (None, False):
        session = open_session(tmp_path / "model.onnx", native=native)
        whole = session.run(["logit"], feed)[0]
        alone = [session.run(["logit"], {n: v[i : i + 1] for n, v in feed.items()})[0] for i in range(len(whole))]
        np.testing.assert_array_equal(np.concatenate(alone), whole)


@pytest.mark.parametrize(("backbone", "config"), [("dcnv2", "portable"), ("dcnv2", "native-int8"), ("dnn", "native")])
def test_hidden_layers_are_proven(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig], backbone: str, config: str
) -> None:
    data = "synthetic:rows=1500,values=60,tags=4"
    run = train(tiny_train(data=data, backbone=backbone, dim=16, hidden=(160, 136), epochs=1), tmp_path / "run")
    bundle = export(freeze(run), tmp_path / "bundle", CONFIGS[config])
    verdict = validate(bundle.path, run.path, tolerances=LOOSE)
    assert verdict.problems == []
    assert verdict.layers_checked == verdict.layers_bit_equal
    ops = bundle.report()["ops"]
    assert (DOMAIN in {o.domain for o in bundle.proto().opset_import}) == ("LinearInt8" in ops)
    assert sum(ops.get(kind, 0) for kind in ("LinearInt8", "MatMulInteger", "CrossInt8")) == verdict.layers_checked
    assert verdict.layers_checked


def test_the_auc_drop_allowed_is_that_of_rows_and_layers(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig]
) -> None:
    data = "synthetic:rows=3000,values=60,tags=0"
    frozen = freeze(train(tiny_train(data=data, dim=16, hidden=(160, 136), epochs=1), tmp_path / "run"))
    layers = ExportConfig(layer_dtype="int8")
    changes = auc_changes(frozen, layers)
    assert changes != auc_changes(frozen)
    assert max(changes.values()) < 0.05
    assert choose_dtype(frozen, layers, max_auc_drop=1.0).layer_dtype == "int8"
    with pytest.raises(InputError, match="layer_dtype='fp32'"):
        choose_dtype(frozen, layers, max_auc_drop=-1.0)


def test_a_changed_number_of_a_layer_is_found(tmp_path: Path, tiny_train: Callable[..., TrainConfig]) -> None:
    run = train(tiny_train(dim=16, hidden=(160, 136), epochs=1), tmp_path / "run")
    bundle = export(freeze(run), tmp_path / "bundle", ExportConfig("dense", layer_dtype="int8"))
    model = onnx.load(bundle.model, load_external_data=False)
    (place,) = [t.external_data for t in model.graph.initializer if t.name.startswith("int8_columns/")]
    offset = next(int(entry.value) for entry in place if entry.key == "offset")
    data = bytearray((bundle.path / "model.onnx.data").read_bytes())
    data[offset + 5] ^= 1
    (bundle.path / "model.onnx.data").write_bytes(bytes(data))
    write_sums(bundle.path)
    problems = " ".join(validate(bundle.path, run.path, tolerances=LOOSE).problems)
    assert "int8_columns" in problems
    assert "layer" in problems


class Tied(nn.Module):
    """Two layers of which one has a weight that another part of the model has too, and one that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(200, 32)
        self.own, self.tied, self.twice = nn.Linear(32, 144), nn.Linear(144, 144), nn.Linear(144, 144)
        self.other = nn.Linear(144, 144)
        self.other.weight = self.tied.weight
        self.out = nn.Linear(144, 1)

    def forward(self, items: Tensor) -> Tensor:
        x = torch.relu(self.own(self.items(items)))
        x = torch.relu(self.other(torch.relu(self.tied(x))))
        scores: Tensor = self.out(torch.relu(self.twice(self.twice(x)))).squeeze(-1)
        return scores


def user_model() -> FrozenModel:
    torch.manual_seed(0)
    return freeze(Tied().eval(), example={"items": torch.arange(40)})


@pytest.mark.parametrize("target", ["portable", "native"])
def test_layers_of_a_users_module(tmp_path: Path, target: Any) -> None:
    model = user_model()
    assert set(quantizable(model.module.model).weights) == {"own.weight", "twice.weight", "out.weight"}
    bundle = export(model, tmp_path / "bundle", ExportConfig(target=target, layer_dtype="int8"))
    int8 = {t.name for t in bundle.proto().graph.initializer if t.name.startswith("int8_scales/")}
    wanted = {"twice.weight"} | (set() if target == "portable" else {"own.weight"})
    assert {name.rpartition("/")[2] for name in int8} == wanted
    verdict = validate(bundle.path, user_model())
    assert verdict.problems == []
    assert verdict.layers_checked == verdict.layers_bit_equal == len(wanted) + 1  # one is applied twice


class Crossed(nn.Module):
    """A cross whose x0 is what a layer gives that is quantized too."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(200, 32)
        self.own, self.cross, self.out = nn.Linear(32, 144), nn.Linear(144, 144), nn.Linear(144, 1)

    def forward(self, items: Tensor) -> Tensor:
        x0 = torch.relu(self.own(self.items(items)))
        scores: Tensor = self.out(x0 * self.cross(x0) + x0).squeeze(-1)
        return scores


def test_a_cross_of_what_a_layer_in_int8_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = freeze(Crossed().eval(), example={"items": torch.arange(40)})
    bundle = export(model, tmp_path / "bundle", ExportConfig(target="native", layer_dtype="int8"))
    ops = bundle.report()["ops"]
    assert (ops.get("LinearInt8"), ops.get("CrossInt8")) == (1, 1)
    assert validate(bundle.path, model).problems == []


def test_where_no_layer_gains_that_is_said(tmp_path: Path, fbe_run: Run) -> None:
    with pytest.raises(InputError, match=r"(?s)no layer gains by it.*too few.*layer_dtype"):
        export(freeze(fbe_run), tmp_path / "bundle", ExportConfig(layer_dtype="int8"))


def test_no_runtime_saturates() -> None:
    """Largest numbers side by side, with which int16 sums of two products of 127 would saturate."""
    linear = nn.Linear(64, 16)
    nn.init.constant_(linear.weight, 1.0)
    nn.init.zeros_(linear.bias)
    x = np.ones((3, 64), np.float32)
    answer = ort.InferenceSession(node_of(linear, UNSIGNED, NO_LEAST), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(answer.run(None, {"x": x})[0], np.full((3, 16), 64.0), rtol=1e-6)
