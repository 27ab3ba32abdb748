"""The same file answers alike in older releases of ONNX Runtime, with the native library and without."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from amtl_export import ExportConfig, export
from amtl_export.bundle.bundle import Bundle
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.native import needed_library
from amtl_export.runtime.session import open_session
from amtl_export.traffic.draw import draw

#: The oldest and the newest of those that are checked; AMTL_EXPORT_ORT_VERSIONS names others, as 1.23.2,1.24.4.
VERSIONS = os.environ.get("AMTL_EXPORT_ORT_VERSIONS", "1.20.1,1.26.0").split(",")

CONFIGS = {
    "ragged": ExportConfig("ragged", first_layer="plain"),
    "fused": ExportConfig("ragged", first_layer="fused"),
    "fused-int8": ExportConfig("ragged", "int8", first_layer="fused"),
    "layer-int8": ExportConfig("ragged", "int8", layer_dtype="int8"),
    "ragged-int4": ExportConfig("ragged", "int4", first_layer="plain"),
    "layer-int8-int4": ExportConfig("ragged", "int4", layer_dtype="int8"),
    "paged": ExportConfig("paged"),
    "dense-int8": ExportConfig("dense", "int8"),
    "dense-int4": ExportConfig("dense", "int4"),
}


@pytest.fixture(scope="session", params=VERSIONS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with another release, beside nothing that this environment has."""
    site = tmp_path_factory.mktemp("site") / request.param
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    done = subprocess.run([*pip, f"onnxruntime=={request.param}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"onnxruntime {request.param} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return request.param, site


@pytest.fixture(scope="session", params=CONFIGS)
def probed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, frozen: FrozenModel) -> Bundle:
    """A bundle whose lookups are outputs too, where the graph has them."""
    bundle = export(frozen, tmp_path_factory.mktemp("bundles") / request.param, CONFIGS[request.param])
    model = onnx.load(str(bundle.model), load_external_data=False)
    made = {output for node in model.graph.node for output in node.output}
    for site in bundle.signature.lookups:
        if site.output in made:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(site.output))
    onnx.save(model, str(bundle.model))
    return bundle


@pytest.mark.parametrize("native", [True, False])
def test_answers_are_the_same(
    other: tuple[str, Path], probed: Bundle, frozen: FrozenModel, tmp_path: Path, native: bool
) -> None:
    version, site = other
    feed = draw(frozen.config, frozen.vocabularies, 200, np.random.default_rng(0), "uniform")
    feed["ids"][::7] = -5
    np.savez(tmp_path / "request.npz", **feed)  # type: ignore[arg-type]  # names are the inputs'
    words: list[Any] = [probed.model, tmp_path / "request.npz", tmp_path / "answers.npz"]
    words += [needed_library()] if native else []
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("answer.py"), *words],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == version
    session = open_session(probed.model, native=native)
    expected = dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))
    with np.load(tmp_path / "answers.npz") as found:
        assert set(found) == set(expected)
        for name, answer in expected.items():
            if name.startswith("lookup/"):
                assert found[name].tobytes() == answer.tobytes(), name
            else:
                np.testing.assert_allclose(found[name], answer, rtol=0, atol=2e-6)
