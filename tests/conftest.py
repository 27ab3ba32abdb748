"""Runs and bundles that many tests read, made once for each test process."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from hypothesis import settings

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.data.catalog import open_source
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run, load_run

WEIGHTED = """
label = "click"
group = "user"
weight = "w"
[split]
rule = "column"
column = "part"
[[field]]
name = "user"
kind = "categorical"
type = "int64"
[[field]]
name = "item"
kind = "categorical"
type = "int64"
[[field]]
name = "age"
kind = "numeric"
"""

# Shared machines pause; no test depends on wall-clock speed.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

TINY = "synthetic:rows=4000,values=120,rank=4,tags=12"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two test processes share two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_train() -> Callable[..., TrainConfig]:
    """A training that takes a second."""

    def make(**changes: object) -> TrainConfig:
        settings: dict[str, object] = {"data": TINY, "dim": 12, "epochs": 2, "batch_size": 256, "hidden": (16, 8)}
        return TrainConfig(**(settings | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Run:
    """A finished AMTL run with categorical, numeric and multi-valued fields."""
    return train(tiny_train(), tmp_path_factory.mktemp("runs") / "amtl")


@pytest.fixture(scope="session")
def fbe_run(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Run:
    """A finished FBE run of the same data."""
    return train(tiny_train(method="fbe"), tmp_path_factory.mktemp("runs") / "fbe")


def _write_weighted(folder: Path, spoil: int | None = None) -> Path:
    """Data of which every third row has the weight 0; those rows' labels can be drawn anew."""
    (source,) = open_source("synthetic:rows=2400,values=40,tags=0").chunks()
    n = len(source)
    rng = np.random.default_rng(1)
    weight = np.where(np.arange(n) % 3 == 0, 0.0, rng.integers(1, 5, n) / 4)
    part = np.where(np.arange(n) % 10 == 0, "valid", np.where(np.arange(n) % 10 == 1, "test", "train"))
    frame = source.select("user", "item", "age", "click").with_columns(w=pl.Series(weight), part=pl.Series(part))
    if spoil is not None:
        other = pl.Series(np.random.default_rng(spoil).integers(0, 2, n))
        frame = frame.with_columns(
            click=pl.when(pl.col("w") == 0).then(other).otherwise(pl.col("click").cast(pl.Int64))
        )
    folder.mkdir()
    frame.with_columns(pl.col("click").cast(pl.Int64)).write_csv(folder / "rows.csv")
    (folder / "schema.toml").write_text(WEIGHTED)
    return folder


@pytest.fixture(scope="session")
def weighted_data() -> Callable[..., Path]:
    """Writes data with groups and weights into a folder; `spoil` draws labels of rows of weight 0 anew."""
    return _write_weighted


@pytest.fixture(scope="session")
def weighted_run(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Run:
    """A finished AMTL run of data with groups and weights."""
    folder = tmp_path_factory.mktemp("weighted")
    config = tiny_train(data=str(_write_weighted(folder / "data")), epochs=1, batch_size=128)
    return train(config, folder / "run")


@pytest.fixture(scope="session")
def frozen(run: Run) -> FrozenModel:
    return freeze(run)


@pytest.fixture(scope="session", params=["dense", "paged", "blocks", "ragged", "fused"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, frozen: FrozenModel) -> Bundle:
    """The run's bundle in each layout, and with its first layer fused to the lookup."""
    out = tmp_path_factory.mktemp("bundles") / request.param
    fused = request.param == "fused"
    config = ExportConfig("ragged", first_layer="fused") if fused else ExportConfig(request.param, first_layer="plain")
    return export(frozen, out, config)


@pytest.fixture(scope="session")
def paged_bundle(tmp_path_factory: pytest.TempPathFactory, frozen: FrozenModel) -> Bundle:
    return export(frozen, tmp_path_factory.mktemp("bundles") / "one", ExportConfig(layout="paged", page_width=4))


@pytest.fixture
def run_copy(run: Run, tmp_path: Path) -> Path:
    """The run in a folder that a test may spoil."""
    return Path(shutil.copytree(run.path, tmp_path / "run"))


@pytest.fixture
def bundle_copy(paged_bundle: Bundle, tmp_path: Path) -> Path:
    """The paged bundle in a folder that a test may spoil."""
    return Path(shutil.copytree(paged_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def fresh_run(run: Run) -> Run:
    """The run, loaded anew, whose model a test may change."""
    return load_run(run.path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the public data sets, from AMTL_EXPORT_DATA or beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AMTL_EXPORT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no public data sets at {folder}; set AMTL_EXPORT_DATA to a folder with ml-1m, taobao-ecomm, …")
    return folder


@pytest.fixture(scope="session")
def triton() -> Path:
    """Folder of the installed server."""
    installed = Path(__file__).resolve().parents[1] / ".triton"
    if not (installed / "installed").is_file():
        pytest.skip("no Triton Inference Server: make triton (Linux on x86-64)")
    return installed


@pytest.fixture
def gpu() -> None:
    """Skips where there is none."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and onnxruntime-gpu")


@dataclass(frozen=True)
class Outside:
    """What a user has who installed the wheel, and cloned the repository beside it.

    Attributes:
        sdist: of a clone.
        wheel: built from it, without the network.
        site: where it is installed.
    """

    sdist: Path
    wheel: Path
    site: Path

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command with the wheel first on the paths."""
        path = os.pathsep.join([str(self.site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        program = shutil.which(words[0], path=path)
        assert program is not None, words[0]
        return subprocess.run(
            [program, *words[1:]], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """The wheel, built and installed once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    folder.mkdir(exist_ok=True)
    made = Outside(folder / "sdist", folder / "built", folder / "site")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.site.exists():
            sdist = _sdist(cloned(folder / "source"), made.sdist)
            pip, environment = [sys.executable, "-m", "pip"], os.environ | {"AMTL_EXPORT_CUDA": "0"}
            words = [
                "wheel",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--wheel-dir",
                str(made.wheel),
                str(sdist),
            ]
            subprocess.run([*pip, *words], env=environment, check=True)
            words = ["install", "--quiet", "--no-deps", "--target", str(made.site), *map(str, made.wheel.iterdir())]
            subprocess.run([*pip, *words], check=True)
    ((sdist,), (wheel,)) = (made.sdist.iterdir(), made.wheel.iterdir())
    return Outside(sdist, wheel, made.site)


def _sdist(source: Path, folder: Path) -> Path:
    folder.mkdir()
    code = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    words = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    subprocess.run(words, cwd=source, capture_output=True, text=True, check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of what is committed: nothing is built in it."""
    return cloned(tmp_path / "clone")


def cloned(folder: Path) -> Path:
    root = Path(__file__).resolve().parents[1]
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{root}", str(folder)], check=True)
    return folder
