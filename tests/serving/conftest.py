"""A server with a model, and what its answers must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from triton_server import Server, serving

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.serving.package import PackageConfig, package
from amtl_export.spec import Feed
from amtl_export.traffic.draw import draw
from amtl_export.training.run import Run


@pytest.fixture(scope="session")
def settings() -> PackageConfig:
    """A server's that waits for requests to put together."""
    return PackageConfig(backend="python", max_batch=256, queue_us=2000)


@pytest.fixture(scope="session")
def served_bundle(tmp_path_factory: pytest.TempPathFactory, frozen: FrozenModel) -> Bundle:
    """A bundle with all native operators."""
    return export(frozen, tmp_path_factory.mktemp("served") / "amtl", ExportConfig("ragged", first_layer="fused"))


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory, fbe_run: Run) -> Bundle:
    """Another model of the same inputs."""
    return export(
        freeze(fbe_run), tmp_path_factory.mktemp("served") / "fbe", ExportConfig("ragged", first_layer="fused")
    )


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, served_bundle: Bundle, settings: PackageConfig) -> Path:
    folder = tmp_path_factory.mktemp("models")
    package(served_bundle.path, folder, "ctr", settings)
    return folder


@pytest.fixture(scope="session")
def server(triton: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with version 1 of the model `ctr`."""
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with serving(triton, repository, log, "--model-control-mode=explicit", "--load-model=ctr") as running:
        yield running


@pytest.fixture(scope="session")
def requests(frozen: FrozenModel) -> list[Feed]:
    """Requests of many sizes; numbers are missing in some."""
    rng = np.random.default_rng(5)
    return [draw(frozen.config, frozen.vocabularies, batch, rng) for batch in (1, 2, 3, 7, 16, 33, 64)]
