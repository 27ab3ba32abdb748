"""The README's commands and code run, and its figures are those of the committed results."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, flags=re.DOTALL)


def test_the_commands_run_in_order(tmp_path: Path) -> None:
    commands = [
        line
        for block in blocks("sh")
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith("amtl-export")
    ]
    assert len(commands) >= 5
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_code_runs(tmp_path: Path, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[number]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_set_up_commands_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_quoted_result_file_is_there() -> None:
    quoted = set(re.findall(r"benchmarks/results/[\w.\-]+\.json", README))
    assert quoted
    for name in quoted:
        values = json.loads((ROOT / name).read_text(encoding="utf-8"))
        assert values["date"]
        assert values["machine"]["cpu"]
