"""One bundle of somebody else's model, a torch-rechub DeepFM, through every command and a real Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from triton_server import serving

from amtl_export import Source, attach, bench_infer, export, freeze, inspect, load, package, validate
from amtl_export.bench.infer import InferConfig
from amtl_export.bundle.bundle import Bundle
from amtl_export.models.config import SelectionConfig
from amtl_export.serving.package import PackageConfig
from amtl_export.source.source import build
from amtl_export.spec import Feed

pytest.importorskip("torch_rechub", reason="torch-rechub is not installed: the extra thirdparty")

MODEL = """
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.ranking import DeepFM

import amtl_export
from amtl_export.models.config import SelectionConfig

SIZES = {"user": 300, "item": 500}


def columns(rows, seed):
    random = torch.Generator().manual_seed(seed)
    ids = {name: (torch.rand(rows, generator=random) ** 3 * size).long() for name, size in SIZES.items()}
    return {"x": ids | {"price": torch.rand(rows, generator=random)}}


def build():
    torch.manual_seed(0)
    sparse = [SparseFeature(name, size, 16) for name, size in SIZES.items()]
    model = DeepFM([*sparse, DenseFeature("price")], sparse, {"dims": [16], "dropout": 0.2, "activation": "relu"})
    tables = {f"embedding.embed_dict.{name}": torch.arange(size, 0, -1) for name, size in SIZES.items()}
    amtl_export.attach(model, tables, SelectionConfig(initial_ratio=0.4))
    inputs = [columns(400, seed) for seed in range(3)]
    with torch.no_grad():
        scores = [model.eval()(x["x"]) for x in inputs]
    labels = [(score > torch.cat(scores).median()).float() for score in scores]
    return amtl_export.Source(model, columns(16, 9), batches=list(zip(inputs, labels)), outputs=["click"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `my_model.py`."""
    made = tmp_path_factory.mktemp("own")
    (made / "my_model.py").write_text(MODEL)
    return made


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return build(f"{folder / 'my_model.py'}:build")


@pytest.fixture(scope="module")
def bundle(folder: Path, source: Source) -> Bundle:
    return export(freeze(source), folder / "bundle")


def command(folder: Path, *words: str) -> dict[str, Any]:
    """The JSON that a command prints."""
    program = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *words, "--json", "-"]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_it_is_proven_with_auc(bundle: Bundle, source: Source) -> None:
    found = validate(bundle.path, source)
    assert found.problems == []
    assert found.auc_torch == pytest.approx(found.auc_onnx, abs=1e-6)
    assert found.auc_torch is not None
    assert found.auc_torch > 0.99  # the labels are the model's own
    assert found.rows_scored == 1200
    assert found.rows_checked == found.rows_bit_equal == 800
    assert found.scores_are == "probability"
    assert found.selector_nodes == found.selector_initializers == 0
    assert found.out_of_range == {"user": "guarded", "item": "guarded"}


def test_it_is_not_another_models(bundle: Bundle, source: Source) -> None:
    changed = build(f"{bundle.path.parent / 'my_model.py'}:build")
    table = changed.module.get_submodule("embedding.embed_dict.user")
    with torch.no_grad():
        table._parameters["weight"][7, 0] += 1  # type: ignore[index]
    assert any("wrong row" in problem for problem in validate(bundle.path, changed).problems)


def test_it_is_inspected_and_timed(bundle: Bundle, source: Source) -> None:
    fields = inspect(bundle.path).fields
    assert [field.name for field in fields] == ["embedding.embed_dict.user", "embedding.embed_dict.item"]
    assert all(0 < field.avg_dim < 16 and len(field.group_dims) == 7 for field in fields)
    result = bench_infer(bundle.path, source, InferConfig(batches=(1, 8), seconds=0.01))
    assert result["resampled_inputs"] == ["price"]
    subjects = {case["subject"] for case in result["cases"]}
    assert {"torch-eager", "torch-masked", "onnx-dense", f"onnx-{bundle.signature.layout}"} == subjects
    assert {case["ids"] for case in result["cases"]} == {"zipf", "uniform", "replay"}


def test_the_commands_take_the_factory(folder: Path, bundle: Bundle) -> None:
    report = command(folder, "export", "my_model.py:build", "--out", "again")
    assert report["bytes_table"] < report["bytes_dense"]
    verdict = command(folder, "validate", "again", "--run", "my_model.py:build")
    assert verdict["verdict"] == "pass"
    assert verdict["auc_torch"] is not None
    timed = command(folder, "bench", "infer", "again", "--vs", "my_model.py:build", "--batch", "4", "--seconds", "0.01")
    assert timed["model"]["backbone"] == "DeepFM"
    frozen = command(folder, "freeze", "my_model.py:build", "--out", "frozen")
    assert [field["governed"] for field in frozen["fields"]] == [True, True]
    assert command(folder, "inspect", "frozen")["kind"] == "module"
    command(folder, "export", "frozen", "--out", "third", "--dtype", "int8")
    assert command(folder, "validate", "third", "--run", "my_model.py:build")["rows_bit_equal"] == 800


def test_a_server_answers_as_the_module(triton: Path, tmp_path: Path, bundle: Bundle, source: Source) -> None:
    made = package(bundle.path, tmp_path / "models", "deepfm", PackageConfig(backend="python", max_batch=64))
    rng = np.random.default_rng(3)
    feed: Feed = {
        "user": rng.integers(0, 300, 20),
        "item": rng.integers(0, 500, 20),
        "price": rng.random(20).astype(np.float32),
    }
    with torch.no_grad():
        expected = source.module({name: torch.from_numpy(values) for name, values in feed.items()}).numpy()
    assert np.abs(load(bundle.path).predict(feed)["click"] - expected).max() < 1e-6
    with serving(triton, tmp_path / "models", tmp_path / "log") as server:
        import tritonclient.http as http

        client = http.InferenceServerClient(f"127.0.0.1:{server.http}")
        inputs = []
        for name, values in feed.items():
            tensor = http.InferInput(name, [20, 1], "FP32" if values.dtype == np.float32 else "INT64")
            tensor.set_data_from_numpy(values.reshape(20, 1))
            inputs.append(tensor)
        answer = client.infer("deepfm", inputs).as_numpy("click")
        done = subprocess.run(
            [sys.executable, str(made.model / "client.py"), f"http://127.0.0.1:{server.http}"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert np.abs(answer.reshape(-1) - expected).max() < 1e-6
    assert done.returncode == 0, done.stderr


def test_attached_tables_are_smaller(bundle: Bundle) -> None:
    assert bundle.signature.layout == "blocks"
    assert bundle.signature.table_bytes < sum(table.bytes_dense for table in bundle.signature.tables.values())


def test_the_factory_attaches_by_itself(source: Source) -> None:
    with pytest.raises(ValueError, match="attached already"):
        attach(source.module, {"embedding.embed_dict.user": torch.arange(300, 0, -1)}, SelectionConfig())
