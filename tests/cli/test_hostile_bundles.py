"""A bundle whose native nodes somebody changed, checksums and all: commands refuse it, and live to say so."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from amtl_export import ExportConfig, export
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.ragged import LINEAR
from amtl_export.native import DOMAIN, library_path
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native operator was not built: no C compiler")


@pytest.fixture(scope="module")
def fused(frozen: FrozenModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ExportConfig("ragged", target="native", first_layer="fused")
    return export(frozen, tmp_path_factory.mktemp("hostile") / "bundle", config).path


def layer_of(graph: Any) -> Any:
    return next(node for node in graph.node if node.op_type == LINEAR)


def replaced(graph: Any, name: str, array: Any) -> None:
    (old,) = [constant for constant in graph.initializer if constant.name == name]
    graph.initializer.remove(old)
    graph.initializer.append(numpy_helper.from_array(array, name))


def wide_node(graph: Any) -> None:
    """A layer beside the bundle's own, without outputs and of a dim that makes its bytes come to 0."""
    layer = layer_of(graph)
    arrays = {"zero": np.array([0]), "one": np.array([1]), "bias": np.zeros(0, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(array, f"layer/{name}") for name, array in arrays.items())
    graph.initializer.append(helper.make_tensor("layer/weights", onnx.TensorProto.FLOAT, [0, 2**61, 16], []))
    (last,) = [node for node in graph.node if "logit" in node.output]
    last.output[:] = ["was" if name == "logit" else name for name in last.output]
    for node in graph.node:
        node.input[:] = ["was" if name == "logit" else name for name in node.input]
    given = {a.name: helper.get_attribute_value(a) for a in layer.attribute} | {"dim": 2**61}
    inputs = [*layer.input[:3], "few", "layer/one", "layer/zero", "layer/weights", "layer/bias"]
    sliced = [layer.input[3], "layer/zero", "layer/one", "layer/one"]
    graph.node.extend(
        [
            helper.make_node("Slice", sliced, ["few"]),
            helper.make_node(LINEAR, inputs, ["nothing"], domain=DOMAIN, **given),
            helper.make_node("ReduceSum", ["nothing", "layer/one"], ["sum"], keepdims=0),
            helper.make_node("Add", ["was", "sum"], ["logit"]),
        ]
    )


def far_fields(graph: Any) -> None:
    """Sizes of fields that no table has; found when the node runs."""
    name = layer_of(graph).input[4]
    (sizes,) = [numpy_helper.to_array(constant) for constant in graph.initializer if constant.name == name]
    replaced(graph, name, np.full_like(sizes, 2**62))


@pytest.mark.parametrize("spoil", [wide_node, far_fields])
def test_changed_nodes_are_refused(
    amtl: Command, run: Run, fused: Path, tmp_path: Path, spoil: Callable[[Any], None]
) -> None:
    bundle = Path(shutil.copytree(fused, tmp_path / "bundle"))
    model = onnx.load(str(bundle / "model.onnx"), load_external_data=False)
    spoil(model.graph)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    files = sorted(file for file in bundle.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(bundle).as_posix()}\n" for f in files]
    (bundle / "SHA256SUMS").write_text("".join(lines))
    served = (["bench", "server", bundle, "--run", run.path, "--qps", 1, "--seconds", 0.1], 2)
    for words, code in (
        *([served] if spoil is wide_node else []),
        (["validate", bundle, "--run", run.path], 3),
        (["package", bundle, "--triton", tmp_path / "models", "--name", "m"], 2),
    ):
        done = amtl(*words)
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
    assert not (tmp_path / "models" / "m").exists()
