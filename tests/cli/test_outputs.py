"""Where commands write: never into what they read, and each result to a file of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.cli.main import run as called
from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, checksum_mismatches

Words = Callable[[Path], list[object]]

INSIDE: dict[str, Words] = {
    "json": lambda p: ["compare", p, p, "--json", p / "found.json"],
    "json of another command": lambda p: ["validate", p, "--run", "nobody", "--json", p / "samples" / "verdict.json"],
    "page": lambda p: ["report", p, "--out", p / "page.html"],
    "plot": lambda p: ["inspect", p, "--plot", p / "dims.png"],
    "scores": lambda p: ["score", p, "--data", p, "--out", p / "scores.parquet"],
    "repository": lambda p: ["package", p, "--triton", p / "models", "--name", "ctr"],
    "the bundle as repository": lambda p: ["package", p, "--triton", p, "--name", "ctr"],
    "a link": lambda p: ["compare", p, p, "--json", p.parent / "link" / "found.json"],
    "a run": lambda p: ["train", "--data", "synthetic", "--out", p / "run"],
}


@pytest.mark.parametrize("name", INSIDE)
def test_nothing_is_written_into_a_folder_of_ours(
    name: str, bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy.parent / "link").symlink_to(bundle_copy)
    assert called([str(word) for word in INSIDE[name](bundle_copy)]) == 2
    said = capsys.readouterr().err
    assert "a folder that this tool made" in said or "holds what is read, or lies in it" in said
    assert checksum_mismatches(bundle_copy) == []


@pytest.mark.parametrize(
    "words",
    [
        lambda p: ["inspect", p],
        lambda p: ["score", p.parent / "bundle", "--data", p.parent, "--out", p],
        lambda p: ["freeze", f"{p}.py:build", "--out", p.parent / "out"],
        lambda p: ["package", p.parent / "bundle", "--triton", p, "--name", "ctr"],
    ],
)
def test_a_name_that_is_no_text_is_refused(words: Words, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called([str(word) for word in words(bundle_copy.parent / os.fsdecode(b"\xff"))]) == 2
    said = capsys.readouterr().err
    assert "name of a file or folder is not UTF-8" in said
    assert "rename it" in said
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


def test_a_run_stays_as_it_is(run_copy: Path) -> None:
    before = (run_copy / "config.json").read_bytes()
    assert called(["inspect", str(run_copy), "--json", str(run_copy / "config.json")]) == 2
    assert (run_copy / "config.json").read_bytes() == before


def test_a_repository_that_holds_the_bundle(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["package", str(bundle_copy), "--triton", str(bundle_copy.parent), "--name"]
    assert called([*words, bundle_copy.name]) == 2
    assert "holds what is read" in capsys.readouterr().err
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name]
    assert called([*words, "ctr", "-q"]) == 0


def test_beside_a_run_in_the_folder_of_experiments(bundle_copy: Path) -> None:
    """It is ours, and has no checksums; runs of others may stand in it."""
    (bundle_copy.parent / "config.json").write_text('{"producer": {"tool": "amtl-export"}, "kind": "experiments"}')
    out = bundle_copy.parent / "found.json"
    assert called(["compare", str(bundle_copy), str(bundle_copy), "--json", str(out), "-q"]) == 0
    assert out.is_file()


SAME: dict[str, Words] = {
    "scores": lambda p: ["score", p / "bundle", "--data", p, "--out", p / "s", "--json", p / "." / "s"],
    "page": lambda p: ["report", p / "bundle", "--out", p / "link", "--json", p / "s"],
    "plot": lambda p: ["inspect", p / "bundle", "--plot", p / "s", "--json", p / "s"],
    "data": lambda p: ["score", p / "bundle", "--data", p / "s", "--out", p / "o", "--json", p / "s"],
    "timings": lambda p: ["report", p / "bundle", "--out", p / "o", "--bench", p / "s", "--json", p / "s"],
    "module": lambda p: ["inspect", f"{p / 's'}:build", "--json", p / "s"],
}


@pytest.mark.parametrize("name", SAME)
def test_two_paths_that_are_one(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert called([str(word) for word in SAME[name](tmp_path)]) == 2
    assert "two paths of the command are one" in capsys.readouterr().err
    assert (tmp_path / "s").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "s"]


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_output_is_quiet(closed: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `>&-` and `2>&-` leave it."""
    monkeypatch.setattr(sys, closed, None)
    assert called(["inspect", str(bundle_copy)]) == 0
    assert called(["inspect", str(bundle_copy), "--json", "-"]) == 0


@pytest.mark.parametrize("words", ["export --json", "compress --plot", "freeze --json", "score --json --data s"])
def test_a_result_in_the_folder_that_the_command_makes(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, option, *more = words.split()
    out = tmp_path / "out"
    assert called([command, str(tmp_path), "--out", str(out), *more, option, str(out / "samples" / "x")]) == 2
    assert "lies in the folder that the command makes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_has_no_checksums(tmp_path: Path) -> None:
    small = ["--data", "synthetic", "--method", "fbe", "--hidden", "4", "--epochs", "1", "--batch-size", "4096", "-q"]
    assert called(["train", *small, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "run" / "m.json")]) == 0
    assert (tmp_path / "run" / "m.json").is_file()


UNWRITABLE = {
    "json in no folder": ("--json absent/found.json", "the folder of an output is not there"),
    "json on a folder": ("--json .", "an output file is a folder"),
    "plot in no folder": ("--plot absent/p.png", "the folder of an output is not there"),
    "plot of another kind": ("--plot p.jpg", "plots are PNG files"),
    "a file in the way": ("--json file/deep/found.json", "a file stands where a folder is needed"),
}


@pytest.mark.parametrize("name", UNWRITABLE)
@pytest.mark.parametrize("command", ["infer --vs", "server --run"])
def test_what_cannot_be_written_is_told_before_the_work(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words, says = UNWRITABLE[name]
    assert called(["bench", *command.split(), "nobody", "nothing", *words.split()]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every command, before it reads anything; and of Python."""
    (tmp_path / "file").touch()
    for words in (["train", "--data", "nothing"], ["export", "nobody"], ["experiment", "table1", "--data", "nothing"]):
        assert called([*words, "--out", str(tmp_path / "file" / "out")]) == 2
        assert f"where: {tmp_path / 'file'}" in capsys.readouterr().err
    with (
        pytest.raises(InputError, match="fix: a file stands where a folder is needed"),
        atomic_folder(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").is_file()
