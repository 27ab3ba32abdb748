"""What a command is doing stands on standard error: lines elsewhere, a line that goes again on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from amtl_export.cli.working import Working
from amtl_export.stages import heard_by, stage
from amtl_export.training.run import Run


class Told(io.StringIO):
    """Standard error; a wait for what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = threading.Condition()

    def write(self, text: str) -> int:
        with self.condition:
            written = super().write(text)
            self.condition.notify_all()
            return written

    def wait_for(self, text: str) -> None:
        with self.condition:
            assert self.condition.wait_for(lambda: text in self.getvalue(), timeout=60), self.getvalue()


def test_a_stage_that_lasts_is_a_line_and_one_that_does_not_is_none() -> None:
    told = Told()
    shown = Working(told, terminal=False, after_s=0.01)
    with heard_by(shown.stage):
        stage("tracing\x1b[2J")
        told.wait_for("tracing")
        shown.line("a note")
    shown.close()
    patient = Working(told, terminal=False, after_s=1e6)
    patient.stage("over at once")
    patient.close()
    assert told.getvalue() == "tracing\\x1b[2J\na note\n"


def test_on_a_terminal_the_line_is_as_wide_as_it_and_goes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setenv("COLUMNS", "40")
    shown = Working(told, terminal=True, after_s=0.01)
    shown.stage("checking " + "every row of every table " * 3)
    told.wait_for("s")
    shown.line("a note")
    shown.close()
    first, *rest = told.getvalue().split("\r\x1b[K")[1:]
    assert re.fullmatch(r"checking every row of every table.*…, \d+ s", first)
    assert len(first) < 40
    assert "a note\n" in rest
    assert re.fullmatch(r"(\r\x1b\[K[^\r]*)*\r\x1b\[K|", told.getvalue().rpartition("a note\n")[2])


def test_what_nobody_listens_to_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    stage("alone")
    assert capsys.readouterr() == ("", "")


def on_a_terminal(words: list[str], cwd: Path, **environment: str) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, cwd=cwd, env=os.environ | environment, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(60) == 0, said.decode()
    return said.decode()


def test_nothing_of_it_is_left_on_a_terminal(run: Run, tmp_path: Path) -> None:
    """Whatever was shown is erased before the result, which ends with what to do next, each command on one line."""
    out = tmp_path / "a folder whose name is longer than a terminal of forty columns"
    words = [sys.executable, "-m", "amtl_export", "export", str(run.path), "--out", str(out)]
    said = on_a_terminal(words, tmp_path, COLUMNS="40", NO_COLOR="1", TERM="xterm")
    *shown, left = said.split("\r\x1b[K")
    assert not [part for part in shown if len(part) >= 40]
    assert "\x1b" not in left
    assert f"amtl-export validate '{out}' --run {run.path}\r\n" in left


def test_export_says_what_to_do_next_and_what_the_other_target_gives(run: Run, tmp_path: Path) -> None:
    found = {}
    for target, other in (("portable", "native"), ("native", "portable")):
        words = [sys.executable, "-m", "amtl_export", "export", str(run.path), "--target", target, "--out", target]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        _, line, _, validate, package = done.stdout.splitlines()[-5:]
        said = re.match(rf"--target {other} would give layout (\w+), (\w+), table ([\d.]+ \w+) \((\d\.\d\d)x\)", line)
        assert said, done.stdout
        assert validate.split() == ["amtl-export", "validate", target, "--run", str(run.path)]
        assert package.split()[:3] == ["amtl-export", "package", target]
        written = re.search(r"layout (\w+).*?, (\w+), table ([\d.]+ \w+) of .*\((\d\.\d\d)x\)", done.stdout)
        assert written
        found[target], found[f"{other} would"] = written.groups(), said.groups()
    assert found["native"] == found["native would"]
    assert found["portable"] == found["portable would"]


def test_json_has_the_other_target_and_nothing_else_is_printed(run: Run, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "amtl_export", "export", str(run.path), "--out", "bundle", "--json", "-"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '"other_target": {' in done.stdout
    assert "Next" not in done.stdout
