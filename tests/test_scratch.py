"""Large arrays in mapped files: the same numbers, nothing left behind, and a full disk is an error."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest

from amtl_export import scratch as module
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import EnvironmentLacks
from amtl_export.scratch import scratch
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every array is a file, in this folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_large_array_is_a_file_without_a_name(mapped: Path) -> None:
    array = scratch((3, 5), np.int16)
    assert (array.shape, array.dtype.name, int(array.any())) == ((3, 5), "int16", 0)
    array[1] = 7
    assert array.sum() == 35
    assert f"{mapped}/" in Path("/proc/self/maps").read_text()
    assert list(mapped.iterdir()) == []
    assert scratch((0, 5)).shape == (0, 5)


def test_a_full_disk_is_an_error(mapped: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(EnvironmentLacks, match=r"(?s)scratch.*File too large.*4,194,304 bytes.*TMPDIR"):
            scratch((1 << 20,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(mapped.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        ExportConfig("ragged", "int4"),
        *(
            pytest.param(config, marks=pytest.mark.long)
            for config in (ExportConfig("blocks"), ExportConfig("ragged", "int8"))
        ),
    ],
)
def test_bundles_have_the_same_bytes(
    fbe_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ExportConfig
) -> None:
    made = []
    for name, least in (("memory", 1 << 60), ("files", 1)):
        monkeypatch.setattr(module, "_LARGE", least)
        small = compress(fbe_run, dim_budget=0.4, curve=False)
        bundle = export(small, tmp_path / name, config).path
        made.append({file.relative_to(bundle): file.read_bytes() for file in bundle.rglob("*") if file.is_file()})
        assert validate(bundle, small, tolerances=Tolerances(auc_atol=0.01)).problems == []
    differing = [str(name) for name in made[0] if made[0][name] != made[1].get(name)]
    assert (differing, set(made[0])) == ([], set(made[1]))
