"""What `train` says beside progress, as the command's user reads it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

SMALL = ("--data", "synthetic:rows=900,values=20", "--epochs", "1", "--dim", "4", "--hidden", "8")


def test_a_batch_too_large_for_the_data_is_a_note_with_the_flag(amtl_here: Command, tmp_path: Path) -> None:
    done = amtl_here("train", *SMALL, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (note,) = (line for line in done.stderr.splitlines() if line.startswith("note: "))
    assert "1 step an epoch at --batch-size 2048" in note
    assert "--batch-size 32 makes" in note
    (kept,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert "batch_size=32" in kept
    assert "GAUC " in done.stdout


def test_quiet_and_enough_steps_say_nothing(amtl_here: Command, tmp_path: Path) -> None:
    for name, more in (("quiet", ("-q",)), ("small", ("--batch-size", "64"))):
        done = amtl_here("train", *SMALL, *more, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "note: " not in done.stderr
