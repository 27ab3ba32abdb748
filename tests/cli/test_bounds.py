"""Numbers that PyTorch or the machine cannot take end in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from amtl_export.cli.main import run as called

HUGE = 2**70


@pytest.mark.parametrize(
    "words",
    [
        ("--seed", HUGE),
        ("--threads", 9_999_999_999),
        ("--hidden", f"8,{HUGE}"),
        ("--selection-hidden", HUGE),
        ("--dim", HUGE),
        ("--batch-size", HUGE),
        ("--limit-rows", HUGE),
        ("--mde-blocks", HUGE, "--method", "mde"),
    ],
)
def test_numbers_that_are_too_large(
    words: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["train", "--data", "synthetic:rows=200,values=20", "--epochs", 1, *words, "--out", tmp_path / "run"]
    assert called([str(word) for word in made]) == 2
    said = capsys.readouterr().err
    assert str(words[1]).rpartition(",")[2] in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["bench infer", "bench server", "bench train", "experiment", "package", "score"])
def test_threads_are_bounded_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called([*command.split(), "--threads", "4097"]) == 2
    assert "4097 is not in the range 1<=x<=4096" in capsys.readouterr().err


def test_too_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer of four terabytes."""
    words = ["train", "--data", "synthetic:rows=200,values=20", "--epochs", "1", "--hidden", "1048576,1048576"]
    assert called([*words, "--out", str(tmp_path / "run")]) == 4
    assert "not enough memory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
