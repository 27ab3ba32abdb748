"""Layers in int8 that multiply coordinates: bases folded into the weight first, held against PyTorch to the bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import ValidationFailed
from amtl_export.files import write_sums
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.segments import Segment, folded, inverse, places
from amtl_export.runtime.session import open_session
from amtl_export.validation.validate import validate

V, D, L, N = 120, 48, 3, 5

CONFIGS = {
    "portable": ExportConfig(target="portable", layer_dtype="int8"),
    "native": ExportConfig(target="native", layer_dtype="int8"),
    "native_int8": ExportConfig(target="native", dtype="int8", layer_dtype="int8"),
}


class Ranker(nn.Module):
    """Two tables, one also pooled over a list, and numbers, in whatever order they are put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(V, D), nn.Embedding(V, D)
        with torch.no_grad():  # a spectrum that falls, as that of trained tables does
            for table in (self.user, self.item):
                table.weight *= 0.8 ** torch.arange(D)
        self.wide, self.out = nn.Linear(3 * D + N, 512), nn.Linear(512, 1)

    def forward(self, a: Tensor, b: Tensor, s: Tensor, x: Tensor) -> Tensor:
        rows = torch.cat([self.item(b), x, self.user(a), self.item(s).mean(1)], dim=1)
        scores: Tensor = self.out(torch.relu(self.wide(rows))).squeeze(1)
        return scores


def example(rows: int) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(rows)
    ids = {name: torch.randint(0, V, shape, generator=drawn) for name, shape in {"a": (rows,), "b": (rows,)}.items()}
    return ids | {"s": torch.randint(0, V, (rows, L), generator=drawn), "x": torch.randn(rows, N, generator=drawn)}


@pytest.fixture(scope="module")
def model() -> FrozenModel:
    torch.manual_seed(0)
    return compress(freeze(Ranker().eval(), example=example(64)), dim_budget=0.25)


@pytest.fixture(scope="module")
def folded_bundle(model: FrozenModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(model, tmp_path_factory.mktemp("folded") / "bundle", CONFIGS["native"]).path


def exported(model: FrozenModel, folder: Path, config: ExportConfig) -> Bundle:
    bundle = export(model, folder, config)
    assert not any(value.name.endswith("bases") for value in bundle.proto().graph.initializer)
    return bundle


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_layer_of_coordinates_is_pytorchs_to_the_bit(
    model: FrozenModel, tmp_path: Path, config: ExportConfig
) -> None:
    bundle = exported(model, tmp_path / "bundle", config)
    verdict = validate(bundle.path, model)
    assert verdict.problems == []
    assert verdict.layers_checked == verdict.layers_bit_equal == 1
    ops = bundle.report()["ops"]
    assert "LinearInt8" in ops or "MatMulInteger" in ops
    assert not {"RaggedLinear", "RaggedLinearInt8", "Decode"} & set(ops)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_example_alone_is_answered_as_in_any_batch(model: FrozenModel, tmp_path: Path, config: ExportConfig) -> None:
    bundle = exported(model, tmp_path / "bundle", config)
    feed = {name: values.numpy() for name, values in example(40).items()}
    for native in (None, False):
        session = open_session(bundle.model, native=native)
        names = [value.name for value in session.get_outputs()]
        (whole,) = session.run(names, feed)
        alone = [session.run(names, {n: v[i : i + 1] for n, v in feed.items()})[0] for i in range(40)]
        np.testing.assert_array_equal(np.concatenate(alone), whole)
        np.testing.assert_allclose(whole, next(iter(model.answers(feed).values())), atol=0.05)


def test_a_fused_layer_that_is_asked_for_stays_one(model: FrozenModel, tmp_path: Path) -> None:
    config = ExportConfig("ragged", "int8", first_layer="fused", layer_dtype="int8")
    ops = exported(model, tmp_path / "bundle", config).report()["ops"]
    assert ops["RaggedLinearInt8"] == 1
    assert "LinearInt8" not in ops


class Compared(Ranker):
    """The same, and how near the rows of the two tables are to each other, each number as much as the next or not."""

    def __init__(self, weighed: bool) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(512, 64), nn.Linear(65, 1)
        self.weights = nn.Parameter(torch.rand(D)) if weighed else None

    def forward(self, a: Tensor, b: Tensor, s: Tensor, x: Tensor) -> Tensor:
        user, item = self.user(a), self.item(b)
        rows = torch.cat([item, x, user, self.item(s).mean(1)], dim=1)
        hidden = torch.relu(self.hidden(torch.relu(self.wide(rows))))
        products = user * item if self.weights is None else user * item * self.weights
        scores: Tensor = self.out(torch.cat([hidden, products.sum(1, keepdim=True)], dim=1)).squeeze(1)
        return scores


@pytest.mark.parametrize(("weighed", "int8"), [(False, {"wide", "hidden"}), (True, {"hidden"})])
def test_a_layer_stays_as_it_is_where_its_bases_decode_rows_too(tmp_path: Path, weighed: bool, int8: set[str]) -> None:
    torch.manual_seed(0)
    model = compress(freeze(Compared(weighed).eval(), example=example(64)), dim_budget=0.25)
    bundle = export(model, tmp_path / "bundle", CONFIGS["native"])
    initializers = [value.name for value in bundle.proto().graph.initializer]
    assert any(name.endswith("bases") for name in initializers) == weighed
    scales = {name for name in initializers if name.startswith("int8_scales/")}
    assert {name.rpartition("/")[2].removesuffix(".weight") for name in scales} == int8
    verdict = validate(bundle.path, model)
    assert (verdict.problems, verdict.layers_bit_equal) == ([], len(int8))


@pytest.mark.parametrize("form", ["int8_panels", "int8_scales", "int8_offsets"])
def test_a_number_that_is_changed_by_one_step_is_found(model: FrozenModel, tmp_path: Path, form: str) -> None:
    bundle = exported(model, tmp_path / "bundle", CONFIGS["native"])
    proto = onnx.load(bundle.model)
    (tensor,) = [own for own in proto.graph.initializer if own.name.startswith(f"{form}/")]
    data = bytearray(tensor.raw_data)
    data[4] ^= 1
    tensor.raw_data = bytes(data)
    (bundle.path / "model.onnx.data").unlink()
    ir.save(ir.from_proto(proto), bundle.model, external_data="model.onnx.data", size_threshold_bytes=1024)
    write_sums(bundle.path)
    assert form in " ".join(validate(bundle.path, model).problems)


#: What a bundle may say of a weight's part → its key.
LIES = {
    "x y z": "fold",
    "": "fold",
    "-5": "fold",
    "47 item.frozen_table.bases 0": "fold",
    "48 item.frozen_table.bases 7": "fold",
    "a:b": "columns",
    "0:1:2": "columns",
    "0:9999999999999": "columns",
    "0:900": "columns",
    "quantized_x": "form",
    "pairs": "form",
}


@pytest.mark.parametrize(("lie", "key"), LIES.items())
def test_what_metadata_says_wrongly_is_a_problem_and_no_crash(
    model: FrozenModel, folded_bundle: Path, tmp_path: Path, lie: str, key: str
) -> None:
    bundle = shutil.copytree(folded_bundle, tmp_path / "bundle")
    proto = onnx.load(bundle / "model.onnx", load_external_data=False)
    told = [own for value in proto.graph.value_info for own in value.metadata_props if own.key == f"amtl.{key}"]
    assert told
    for own in told:
        own.value = lie
    (bundle / "model.onnx").write_bytes(proto.SerializeToString())
    write_sums(bundle)
    try:
        problems = validate(bundle, model).problems
    except ValidationFailed as error:
        problems = [str(error)]
    assert problems


def test_coordinates_come_back_from_rows() -> None:
    rng = np.random.default_rng(0)
    bases: dict[str, Any] = {"t": rng.standard_normal((2, 3, 7)).astype(np.float32)}
    segments = [Segment(4), Segment(21, "t", (0, 1, 1)), Segment(1)]
    back = inverse(segments, bases)
    assert back.shape == (26, 14)
    z = rng.standard_normal((5, 14))
    rows = [z[:, 4 + 3 * i : 7 + 3 * i] @ bases["t"][own] for i, own in enumerate((0, 1, 1))]
    x = np.concatenate([z[:, :4], *rows, z[:, 13:]], axis=1)
    np.testing.assert_allclose(x @ back, z, atol=1e-5)
    weight = rng.standard_normal((6, 26)).astype(np.float32)
    np.testing.assert_allclose(z @ folded(weight, segments, bases).T, x @ weight.T, atol=1e-4)
    own_rows = np.zeros((5, 26))
    own_rows[:, places(segments, bases)] = z
    np.testing.assert_array_equal(own_rows[:, [4, 5, 6]], z[:, 4:7])
    np.testing.assert_array_equal(own_rows[:, [18, 19, 20, 25]], z[:, 10:14])
    assert np.count_nonzero(own_rows) == z.size
    for own in segments:
        assert Segment.of(own.text) == own
