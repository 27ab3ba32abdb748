"""Places that outputs go to and inputs come from: odd names, links in a circle, no room."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import amtl_export
from amtl_export.cli.main import run as called
from amtl_export.data import vocabulary
from amtl_export.data.parquet_files import read_parquet
from amtl_export.errors import EnvironmentLacks, InputError, os_error_within, os_errors
from amtl_export.files import atomic_folder, read_json, real, whole_file
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.locks import locked
from amtl_export.report.page import write_report
from amtl_export.training.config import TrainConfig
from amtl_export.training.run import Run, load_run
from amtl_export.training.tensors import load_tensors


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may grow past `size` bytes, as if a disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["~", "*", "[a]", "~root", "a b"])
def test_a_name_is_only_a_name(run_copy: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Polars takes "~" for a home and "*" for any file, unless it is told otherwise."""
    folder = run_copy.parent / "named"
    folder.mkdir()
    expected = load_run(run_copy).vocabularies
    run_copy.rename(folder / name)
    monkeypatch.chdir(folder)
    found = load_run(Path(name)).vocabularies
    for field, own in expected.items():
        assert np.array_equal(found[field].counts, own.counts)
    file = next(Path(name).glob("vocab/*.parquet"))
    assert len(read_parquet(file, {"id"}, {}).frame.collect())


def test_a_link_that_is_replaced_leaves_nothing_behind(frozen: FrozenModel, tmp_path: Path) -> None:
    amtl_export.save_frozen(frozen, tmp_path / "named")
    (tmp_path / "link").symlink_to("named")
    amtl_export.save_frozen(frozen, tmp_path / "link", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "named"]
    assert not (tmp_path / "link").is_symlink()


def test_links_in_a_circle_are_refused(run: Run, frozen: FrozenModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.symlink_to("out")
    writes: tuple[Callable[[], object], ...] = (
        lambda: amtl_export.save_frozen(frozen, out),
        lambda: amtl_export.export(run.path, out),
        lambda: amtl_export.train(run.train, out),
        lambda: write_report(run.path, out),
    )
    for write in writes:
        with pytest.raises(InputError, match="exists"):
            write()
    assert out.is_symlink()
    assert real(out) == out


def test_no_room_for_a_lock_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large"), room_for(0), locked(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_training_without_room_is_in_no_later_ones_way(
    tiny_train: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Room for the lock, and for a part of its settings."""
    config = tiny_train(data="synthetic:rows=600,values=20,rank=2,tags=0", dim=2, epochs=1)
    with pytest.raises(EnvironmentLacks, match="no room"), room_for(200):
        amtl_export.train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert amtl_export.train(config, tmp_path / "run").metrics["epochs"] == 1


def test_an_error_of_polars_is_what_the_system_said(tmp_path: Path) -> None:
    import polars as pl

    frame = pl.DataFrame({"a": np.random.default_rng(0).random(50_000)})
    with pytest.raises(EnvironmentLacks, match="no room"), room_for(1000), os_errors("writing scores", tmp_path):
        frame.write_parquet(tmp_path / "a.parquet")
    assert os_error_within(ValueError("no number of the system's")) is None


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="is the current folder still there"), os_errors("writing scores"):
        Path("s.parquet").absolute()


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_folder_is_for_whom_a_new_one_is(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "made") as draft:
            (draft / "part").mkdir()
    finally:
        os.umask(before)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["part"]
    assert (
        (tmp_path / "made").stat().st_mode & 0o777 == 0o777 & ~mask == (tmp_path / "made/part").stat().st_mode & 0o777
    )


@contextmanager
def without_rights() -> Iterator[None]:
    """As nobody, where the tests run as root."""
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("read", [read_json, vocabulary.read_parquet, load_tensors])
def test_a_file_that_may_not_be_read_is_not_called_damaged(read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "a"
        file.touch(0o000)
        with pytest.raises(EnvironmentLacks, match=r"not permitted while reading\n.*/a\n.*denied"), without_rights():
            read(file)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "fig3.json"
    file.write_text("old")
    with pytest.raises(OSError, match="too large"), room_for(3), whole_file(file) as draft:
        draft.write_text("a new one")
    assert [path.name for path in tmp_path.iterdir()] == ["fig3.json"]
    assert file.read_text() == "old"
    (tmp_path / "link").symlink_to("fig3.json")
    with whole_file(tmp_path / "link") as draft:
        draft.write_text("new")
    assert file.read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    with whole_file(Path("/dev/null")) as draft:
        draft.write_text("nothing")


def test_a_result_without_room_leaves_the_one_before_it(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle_copy.parent / "results"
    folder.mkdir()
    results = {"json": folder / "found.json", "plot": folder / "dims.png"}
    for flag, file in results.items():
        file.write_text("old")
        with room_for(1000):
            assert called(["inspect", str(bundle_copy), "-q", f"--{flag}", str(file)]) == 4
        assert "no room left" in capsys.readouterr().err
    assert {file: file.read_text() for file in folder.iterdir()} == dict.fromkeys(results.values(), "old")
