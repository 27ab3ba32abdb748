"""Sessions on a GPU. What needs none is checked everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import amtl_export
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.native import library_path
from amtl_export.runtime.bound import Bound
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.session import open_session
from amtl_export.traffic.draw import draw
from amtl_export.training.run import Run


def test_options_of_cuda_are_for_cuda(paged_bundle: Bundle) -> None:
    for options in (Cuda(), Cuda(tf32=True), Cuda(tables="cpu")):
        with pytest.raises(InputError, match="provider cpu"):
            open_session(paged_bundle.model, cuda=options)
    with pytest.raises(InputError, match="tables on the CPU"):
        Cuda(graphs=True, tables="cpu")


def test_no_node_is_one_that_cuda_leaves_to_the_cpu(bundle: Bundle) -> None:
    """Shapes are computed on the CPU, CUDA graphs hold no branches: no bundle nor function body has them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(bundle.model), options)
    kinds = {node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()}
    assert not kinds & {"Shape", "Size", "If", "Loop", "Scan", "NonZero", "ConstantOfShape", "Range", "Unique"}


def test_the_library_for_gpus_loads_where_none_is() -> None:
    """It is found and read by ONNX Runtime for the CPU, which leaves its operators alone, and exports one name."""
    library = library_path("cuda")
    if library is None:
        assert shutil.which("nvcc") is None, "nvcc is there, and its library was not built"
        pytest.skip("no nvcc when the package was installed")
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    shown = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["RegisterCustomOps"]


@pytest.mark.network
def test_the_runtime_for_gpus_without_a_gpu_is_an_error(paged_bundle: Bundle, run: Run, tmp_path: Path) -> None:
    """It lists CUDA all the same, and would answer from the CPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    done = subprocess.run([*pip, "onnxruntime-gpu==1.31.1"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"onnxruntime-gpu cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    for words, code, says in (
        (["validate", paged_bundle.path, "--run", run.path, "--provider", "cuda"], 4, "CUDA cannot be used"),
        (["doctor", "--require", "CUDAExecutionProvider"], 4, "NVIDIA driver"),
        (["validate", paged_bundle.path, "--run", run.path], 0, "PASS"),
    ):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("amtl-export")), *map(str, words)],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert says in done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_graph_answers_as_predict_does(bundle: Bundle, frozen: FrozenModel) -> None:
    recorded = amtl_export.load(bundle.path, provider="cuda", cuda=Cuda(graphs=True))
    plain, here = amtl_export.load(bundle.path, provider="cuda"), amtl_export.load(bundle.path)
    for number, batch in enumerate((1, 64), start=1):
        feeds = [draw(frozen.config, frozen.vocabularies, batch, np.random.default_rng(i)) for i in range(6)]
        bound = Bound(recorded, feeds[0], graph=number)
        for feed in feeds * 2:
            bound.copy_in(feed)
            bound.run()
            found = bound.copy_out()
            assert np.array_equal(found["logit"], plain.predict(feed)["logit"])
            assert np.allclose(found["logit"], here.predict(feed)["logit"], rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_tables_stay_on_the_cpu(bundle: Bundle, frozen: FrozenModel, tmp_path: Path) -> None:
    feed = draw(frozen.config, frozen.vocabularies, 50, np.random.default_rng(0))
    split = ExportConfig(layout="ragged", first_layer="plain")
    kept = export(frozen, tmp_path / "ragged", split)
    options = Cuda(tables="cpu")
    found = amtl_export.load(kept.path, provider="cuda", cuda=options).predict(feed)["logit"]
    assert np.allclose(found, amtl_export.load(kept.path).predict(feed)["logit"], rtol=0, atol=1e-4)
    if bundle.signature.layout != "ragged":
        with pytest.raises(InputError, match="layout='ragged'"):
            amtl_export.load(bundle.path, provider="cuda", cuda=options)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_out_of_range_ids_answer_as_on_the_cpu(bundle: Bundle, frozen: FrozenModel) -> None:
    feed = draw(frozen.config, frozen.vocabularies, 40, np.random.default_rng(0))
    feed["ids"] = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, feed["ids"].shape)
    there, here = (amtl_export.load(bundle.path, provider=p).predict(feed)["logit"] for p in ("cuda", "cpu"))
    assert np.allclose(there, here, rtol=0, atol=1e-4)
