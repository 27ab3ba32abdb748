"""A real Triton Inference Server answers as the bundle does, whatever is sent to it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from attack.servers import Asked, corrupt_version, many
from torch import nn
from triton_server import Server, post, serving, tensors

from amtl_export.bench.server import ServerBenchConfig, bench_server
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.samples import read_test_data
from amtl_export.errors import InputError
from amtl_export.files import read_json, write_json
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.models.attach import attach
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.spec import Feed
from amtl_export.training.run import Run


def scores_of(server: Server, feed: Feed, *, binary: bool = True) -> Feed:
    """The answers over HTTP."""
    with http_client.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
        wanted = [http_client.InferRequestedOutput(name, binary_data=binary) for name in ("logit", "probability")]
        answer = client.infer("ctr", tensors(http_client, feed, binary_data=binary), outputs=wanted)
        return {name: answer.as_numpy(name)[:, 0] for name in ("logit", "probability")}


def sample_request(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = read_json(bundle.path / "samples" / "request.json")
    return found


def still_right(server: Server, bundle: Bundle) -> None:
    status, answer = post(server, json.dumps(sample_request(bundle)).encode())
    assert status == 200, answer
    expected = read_json(bundle.path / "samples" / "response.json")
    for own, theirs in zip(expected["outputs"], answer["outputs"], strict=True):
        assert np.array_equal(np.float32(own["data"]), np.float32(theirs["data"]))


def without_nan(feed: Feed) -> Feed:
    """JSON knows no NaN."""
    return {name: np.nan_to_num(values) if values.dtype == np.float32 else values for name, values in feed.items()}


def test_health_and_metadata(server: Server, served_bundle: Bundle) -> None:
    with http_client.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("ctr", "1")
        about = client.get_model_metadata("ctr")
    said = {tensor["name"]: (tensor["datatype"], tensor["shape"][1:]) for tensor in about["inputs"]}
    own = {
        t.name: ({"int64": "INT64", "float32": "FP32"}[t.dtype], [-1 if isinstance(n, str) else n for n in t.shape[1:]])
        for t in served_bundle.signature.inputs
    }
    assert said == own
    assert [tensor["name"] for tensor in about["outputs"]] == ["logit", "probability"]
    still_right(server, served_bundle)


def agrees(server: Server, model: Path) -> None:
    """The client that was packaged with a model gets the answers that were packaged with it."""
    client = [sys.executable, str(model / "client.py"), f"http://127.0.0.1:{server.http}"]
    done = subprocess.run(client, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "probability [" in done.stdout


def test_the_packaged_client_agrees(server: Server, repository: Path, tmp_path: Path) -> None:
    agrees(server, repository / "ctr")
    spoilt = shutil.copytree(repository / "ctr", tmp_path / "ctr")
    response = read_json(spoilt / "samples" / "response.json")
    response["outputs"][0]["data"][0] += 1.0
    write_json(spoilt / "samples" / "response.json", response)
    client = [sys.executable, str(spoilt / "client.py"), f"http://127.0.0.1:{server.http}"]
    done = subprocess.run(client, capture_output=True, text=True, check=False)
    assert (done.returncode, "should be" in done.stderr) == (1, True)


def test_the_packaged_client_says_what_a_server_answered(server: Server, repository: Path, tmp_path: Path) -> None:
    other = shutil.copytree(repository / "ctr", tmp_path / "nobody")
    client = [sys.executable, str(other / "client.py"), f"http://127.0.0.1:{server.http}"]
    done = subprocess.run(client, capture_output=True, text=True, check=False)
    assert (done.returncode, "nobody" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def test_every_score_is_the_bundles(server: Server, served_bundle: Bundle, requests: list[Feed]) -> None:
    predictor = load(served_bundle.path)
    with grpc_client.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        for feed in requests:
            expected = predictor.predict(feed)
            answer = client.infer("ctr", tensors(grpc_client, feed))
            for name, values in expected.items():
                assert np.array_equal(scores_of(server, feed)[name], values), name
                assert np.array_equal(answer.as_numpy(name)[:, 0], values), name
            present = without_nan(feed)
            for name, values in predictor.predict(present).items():
                assert np.array_equal(scores_of(server, present, binary=False)[name], values), name


def test_out_of_range_ids_are_answered(server: Server, served_bundle: Bundle, requests: list[Feed]) -> None:
    for out_of_range in (-1, 10**9, np.iinfo(np.int64).max, np.iinfo(np.int64).min):
        feed = requests[2] | {"ids": np.full_like(requests[2]["ids"], out_of_range)}
        known = requests[2] | {"ids": np.zeros_like(requests[2]["ids"])}
        assert np.array_equal(scores_of(server, feed)["logit"], load(served_bundle.path).predict(known)["logit"])


def test_concurrent_requests_are_batched_and_kept_apart(
    server: Server, served_bundle: Bundle, requests: list[Feed]
) -> None:
    predictor = load(served_bundle.path)
    expected = [predictor.predict(feed)["logit"] for feed in requests]

    def runs() -> tuple[int, int]:
        with http_client.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
            found = client.get_inference_statistics("ctr")["model_stats"][0]
            return found["inference_stats"]["success"]["count"], found["execution_count"]

    def ask(number: int) -> float:
        which = number % len(requests)
        return float(np.abs(scores_of(server, requests[which])["logit"] - expected[which]).max())

    before = runs()
    with ThreadPoolExecutor(8) as pool:
        worst = max(pool.map(ask, range(160)))
    after = runs()
    assert worst < 1e-5  # rows of several requests in one matrix product: float32 roundings
    assert after[0] - before[0] == 160
    assert after[1] - before[1] < 160, "the server never put two requests together"


def spoilt(request: dict[str, Any], **changes: Any) -> bytes:
    first, *rest = request["inputs"]
    return json.dumps({"inputs": [first | changes, *rest]}).encode()


def longer(tensor: dict[str, Any], batch: int) -> dict[str, Any]:
    shape = [batch, *tensor["shape"][1:]]
    return tensor | {"shape": shape, "data": [0] * int(np.prod(shape))}


MALFORMED: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "an unknown name": lambda r: spoilt(r, name="idz"),
    "an input left out": lambda r: json.dumps({"inputs": r["inputs"][1:]}).encode(),
    "an input twice": lambda r: json.dumps({"inputs": [*r["inputs"], r["inputs"][0]]}).encode(),
    "too few columns": lambda r: spoilt(r, shape=[4, 2], data=[0] * 8),
    "another rank": lambda r: spoilt(r, shape=[12]),
    "more data than the shape": lambda r: spoilt(r, data=[0] * 99),
    "floats for ids": lambda r: spoilt(r, datatype="FP32"),
    "texts for ids": lambda r: spoilt(r, datatype="BYTES", data=["a"] * 12),
    "a batch past the limit": lambda r: json.dumps({"inputs": [longer(own, 1000) for own in r["inputs"]]}).encode(),
    "truncated JSON": lambda r: json.dumps(r).encode()[:-20],
    "no JSON": lambda _: b"\x00\xff" * 50,
    "an unknown output": lambda r: json.dumps(r | {"outputs": [{"name": "loss"}]}).encode(),
    "100 MB": lambda _: b'{"inputs": [' + b" " * 100_000_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_requests_get_an_error_each(server: Server, served_bundle: Bundle, kind: str) -> None:
    status, answer = post(server, MALFORMED[kind](sample_request(served_bundle)))
    assert 400 <= status <= 500, answer  # for what it cannot parse the server says 500
    assert answer["error"]
    still_right(server, served_bundle)


def test_unknown_models_and_versions(server: Server, served_bundle: Bundle) -> None:
    body = json.dumps(sample_request(served_bundle)).encode()
    for path in ("/v2/models/nobody/infer", "/v2/models/ctr/versions/77/infer"):
        status, answer = post(server, body, path)
        assert 400 <= status < 500, answer


def test_many_connections_at_once(server: Server, served_bundle: Bundle) -> None:
    found = many(Asked.of(server, served_bundle.path), 200)
    assert (found["right"], found["wrong"], found["not_right_after"]) == (200, 0, 0)


def test_a_version_that_cannot_be_loaded_changes_nothing(
    triton: Path, repository: Path, tmp_path: Path, served_bundle: Bundle
) -> None:
    """On a server of its own: Triton never calls itself ready again, though it answers."""
    with serving(triton, repository, tmp_path / "log", "--model-control-mode=explicit", "--load-model=ctr") as running:
        found = corrupt_version(Asked.of(running, served_bundle.path), repository / "ctr")
    assert all(answer.startswith("status 400: load failed") for answer in found["answers"].values()), found
    assert (found["wrong"], found["not_right_after"]) == (0, 0)
    assert found["during"]["right"] > 0
    assert "refused" not in found["during"]


def test_a_killed_server_comes_back(triton: Path, repository: Path, tmp_path: Path, served_bundle: Bundle) -> None:
    with serving(triton, repository, tmp_path / "log", "--model-control-mode=explicit", "--load-model=ctr") as running:
        still_right(running, served_bundle)
        running.stop(signal.SIGKILL)
        assert not running.ready()
        running.start()
        still_right(running, served_bundle)


def test_fields_given_once_per_request(triton: Path, tmp_path: Path, frozen: FrozenModel) -> None:
    fields = (frozen.config.embedded[0].name,)
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("ragged", request_fields=fields))
    package(bundle.path, tmp_path / "models", "ctr", PackageConfig(backend="python"))
    feed = read_test_data(bundle.path, "input")
    with (
        serving(triton, tmp_path / "models", tmp_path / "log") as running,
        http_client.InferenceServerClient(f"127.0.0.1:{running.http}") as client,
    ):
        answer = client.infer("ctr", tensors(http_client, feed))
    assert np.array_equal(answer.as_numpy("logit"), read_test_data(bundle.path, "output")["logit"])


@pytest.mark.parametrize("graph_keys", [10**6, 0])
@pytest.mark.parametrize("request_fields", [(), ("user", "age")])
def test_values_instead_of_ids(
    triton: Path, tmp_path: Path, frozen: FrozenModel, graph_keys: int, request_fields: tuple[str, ...]
) -> None:
    bundle = export(frozen, tmp_path / "bundle", ExportConfig("ragged", request_fields=request_fields))
    config = PackageConfig("python", raw_features=True, graph_keys=graph_keys)
    made = package(bundle.path, tmp_path / "models", "ctr", config)
    with serving(triton, tmp_path / "models", tmp_path / "log") as running:
        agrees(running, made.model)
        request = read_json(made.model / "samples" / "request.json")
        texts = next(tensor for tensor in request["inputs"] if tensor["name"] == "segment")
        assert "unknown" in texts["data"]
        texts["data"] = ["ü" * 1000, "", *texts["data"][2:]]
        status, answer = post(running, json.dumps(request).encode())
        assert status == 200, answer
        texts |= {"datatype": "INT64", "data": [1, 2, 3, 4]}
        status, answer = post(running, json.dumps(request).encode())
        assert status == 400, answer


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.out(self.items(item))).squeeze(-1)


def test_a_module_of_ones_own(triton: Path, tmp_path: Path) -> None:
    """Its input has no second dimension, which Triton needs: it says [batch, 1]."""
    model = Mine()
    attach(model, {"items": torch.arange(50, 0, -1)})
    frozen = freeze(model.eval(), example={"item": torch.arange(2)}, outputs=["probability"])
    bundle = export(frozen, tmp_path / "mine").path
    made = package(bundle, tmp_path / "models", "mine", PackageConfig(backend="python"))
    with pytest.raises(InputError, match="no vocabularies"):
        package(bundle, tmp_path / "models", "values", PackageConfig(backend="python", raw_features=True))
    with serving(triton, tmp_path / "models", tmp_path / "log") as running:
        agrees(running, made.model)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_under_load(server: Server, served_bundle: Bundle, run: Run, protocol: Literal["http", "grpc"]) -> None:
    url = f"127.0.0.1:{server.http if protocol == 'http' else server.grpc}"
    config = ServerBenchConfig(
        batch=16, slo_ms=60_000, qps=40, seconds=0.5, workers=2, url=url, protocol=protocol, pid=server.process.pid
    )
    found = bench_server(served_bundle.path, run.path, config)
    assert found["met"]
    assert [case["scenario"] for case in found["cases"]] == ["single-stream", "offline", "server"]
    assert all(case["pss_bytes"] > 1_000_000 for case in found["cases"])
    assert sum(case["processors"] for case in found["cases"]) > 0  # a clock's tick is longer than some answers take
