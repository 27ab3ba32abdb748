"""The README's commands and code run, and its figures are those of the committed results."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from amtl_export.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def go_through(text: str, outside: Any, clone: Path) -> None:
    """Run a page's commands and code in order, as a reader goes; a block that is said to be a file is that file."""
    blocks = re.findall(r"(?:Write `(\w+\.py)`:\n\n)?```(sh|python)\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 5
    for named, kind, block in blocks:
        file = named or (found[1] if (found := re.match(r"# (\w+\.py)\n", block)) else "")
        if kind == "python" and file:
            (clone / file).write_text(block, encoding="utf-8")
            continue
        lines = block.replace("\\\n", "").splitlines()
        for words in [["python", "-c", block]] if kind == "python" else [shlex.split(line) for line in lines]:
            done = outside.run(*words, cwd=clone)
            assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    changed = subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True)
    assert changed.stdout.split() == ["??", "my_model.py", "??", "repository/"]


def test_the_commands_and_the_code_run_in_a_clone_beside_the_wheel(outside: Any, clone: Path) -> None:
    go_through(README, outside, clone)


def test_the_page_on_ones_own_model_runs_in_a_clone_beside_the_wheel(outside: Any, clone: Path) -> None:
    """The model of torch-rechub; RecBole, whose pins are its own, is run by `make zoo`."""
    pytest.importorskip("torch_rechub", reason="torch-rechub is not installed: the extra thirdparty")
    text = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
    go_through(text.partition("## A SASRec")[0] + text.partition("## What may change")[2], outside, clone)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_the_commands_of_every_page_are_commands(page: Path) -> None:
    """Command and flags exist, and take such values; what needs data, servers or GPUs runs in the tests of those."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^(?: {4})?(amtl-export .*)$|`(amtl-export [^`]*)`", text, flags=re.MULTILINE)
    for line in (block or span for block, span in lines):
        line = re.sub(r"(--[a-z-]+) …", r"\1 something", line)
        words = [word for word in shlex.split(line, comments=True)[1:] if word != "…"]
        command: click.Command = cli
        while isinstance(command, click.Group):
            below = command.get_command(click.Context(command), words.pop(0))
            assert below is not None, line
            command = below
        try:
            command.make_context(line, [re.sub("^PID$", "1", word) for word in words])
        except click.MissingParameter:  # a command's name alone, with the options that the text is about
            continue


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
