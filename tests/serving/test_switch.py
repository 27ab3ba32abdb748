"""New versions are packaged and loaded while clients ask: no request fails, each answer is one version's, whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as http_client
from triton_server import Server, post, serving, tensors

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.raw import encoded, raw_fields, values_of
from amtl_export.freezing.frozen import freeze
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.spec import Feed
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Bundle:
    """The model trained on other rows: the same values have other ids."""
    folder = tmp_path_factory.mktemp("retrained")
    return export(
        freeze(train(tiny_train(seed=1, epochs=1), folder / "run")), folder / "bundle", ExportConfig("ragged")
    )


def raw(bundle: Bundle, feed: Feed) -> Feed:
    """Rows of ids as values."""
    fields = raw_fields(bundle)
    found = {name: feed["ids"][:, i : i + 1] for i, name in enumerate(bundle.inputs[0].fields)} | {"tags": feed["tags"]}
    return {name: values_of(ids, fields[name]) for name, ids in found.items()} | {"numeric": feed["numeric"]}


@pytest.mark.parametrize(
    ("taken", "switches"),
    [
        pytest.param("ids", 20, marks=pytest.mark.long),
        ("ids", 5),
        ("values, in the graph", 3),
        pytest.param("values, by an ensemble", 3, marks=pytest.mark.long),
    ],
)
def test_versions_switch_under_load(
    triton: Path,
    tmp_path: Path,
    served_bundle: Bundle,
    other_bundle: Bundle,
    retrained: Bundle,
    requests: list[Feed],
    taken: str,
    switches: int,
) -> None:
    config = PackageConfig("python", raw_features=taken != "ids", graph_keys=0 if "ensemble" in taken else 10**6)
    bundles, feed = (served_bundle, other_bundle), requests[4]
    expected = [load(bundle.path).predict(feed)["logit"] for bundle in bundles]
    if config.raw_features:
        bundles, feed = (served_bundle, retrained), raw(served_bundle, feed)
        feeds = [encoded(feed, bundle) for bundle in bundles]
        assert (feeds[0]["ids"] != feeds[1]["ids"]).mean() > 0.2
        expected = [load(b.path).predict(own)["logit"] for b, own in zip(bundles, feeds, strict=True)]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    package(bundles[0].path, tmp_path / "models", "ctr", config)
    clients = Clients(feed, expected)
    log = tmp_path / "log"
    with serving(triton, tmp_path / "models", log, "--model-control-mode=explicit", "--load-model=ctr") as running:
        clients.start(running)
        for version in range(2, switches + 2):
            assert package(bundles[(version - 1) % 2].path, tmp_path / "models", "ctr", config).version == version
            status, answer = post(running, b"{}", "/v2/repository/models/ctr/load")  # an ensemble's models with it
            assert status == 200, answer
            clients.wait_for(version)
        clients.stop()
    assert clients.wrong == []
    assert sorted(set(clients.seen)) == list(range(1, switches + 2))


class Clients:
    """Two, that ask without a pause and check each answer against the version that it says it is of."""

    def __init__(self, feed: Feed, expected: list[np.ndarray]) -> None:
        self.feed, self.expected = feed, expected
        self.wrong: list[str] = []
        self.seen: list[int] = []
        self._done = threading.Event()

    def start(self, server: Server) -> None:
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, version: int) -> None:
        while version not in self.seen[-10:]:
            assert all(thread.is_alive() for thread in self._threads)
            self._done.wait(0.05)

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server: Server) -> None:
        with http_client.InferenceServerClient(f"127.0.0.1:{server.http}") as own:
            while not self._done.is_set():
                try:
                    answer = own.infer("ctr", tensors(http_client, self.feed))
                    version = int(answer.get_response()["model_version"])
                    logit = answer.as_numpy("logit")[:, 0]
                    if np.abs(logit - self.expected[(version - 1) % 2]).max() > 1e-5:
                        self.wrong.append(f"version {version} gave another's answer")
                    self.seen.append(version)
                except http_client.InferenceServerException as error:
                    self.wrong.append(str(error))
