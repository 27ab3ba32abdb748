"""The commands that the pages show exist, and the README's figures are those of the committed results."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from chart import SUBJECTS, bars, label

from amtl_export.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Name under docs/ → file. docs/commands.md is written from the commands, which tests/test_docs.py checks.
PAGES = {
    "README.md": ROOT / "README.md",
    **{path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md")) if path.name != "commands.md"},
}


def test_the_readme_is_one_screen_and_a_bit() -> None:
    assert len(README.split()) <= 700


def commands(page: Path) -> list[str]:
    """Lines and quotations of a page that begin with `amtl-export`."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^(?: {4})?(amtl-export .*)$|`(amtl-export [^`]*)`", text, flags=re.MULTILINE)
    return [block or span for block, span in lines]


def test_the_pages_that_show_commands_are_found() -> None:
    """Else the next test would have nothing to try."""
    shown = {name: len(commands(page)) for name, page in PAGES.items()}
    assert all(shown[name] >= 5 for name in ("README.md", "own-model.md", "serving.md", "training.md")), shown


@pytest.mark.parametrize("page", [pytest.param(page, id=name) for name, page in PAGES.items() if commands(page)])
def test_the_commands_of_every_page_are_commands(page: Path) -> None:
    """Command and flags exist, and take such values; what needs data, servers or GPUs runs in the tests of those."""
    for line in commands(page):
        line = re.sub(r"(--[a-z-]+) …", r"\1 something", line)
        words = [word for word in shlex.split(line, comments=True)[1:] if word != "…"]
        command: click.Command = cli
        while isinstance(command, click.Group):
            below = command.get_command(click.Context(command), words.pop(0))
            assert below is not None, line
            command = below
        try:
            command.make_context(line, [word.replace("$!", "1") for word in words])
        except click.MissingParameter:  # a command's name alone, with the options that the text is about
            continue


def test_the_set_up_commands_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_quoted_result_file_is_there() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES.values()]
    quoted = {name for text in texts for name in re.findall(r"benchmarks/results/[\w.\-]+\.json", text)}
    assert len(quoted) > 20
    for name in quoted:
        values = json.loads((ROOT / name).read_text(encoding="utf-8"))
        assert values["date"]
        assert values["machine"]["cpu"]


def test_the_picture_shows_the_committed_result() -> None:
    """docs/savings.svg is what benchmarks/chart.py makes of its JSON: each text of it."""
    result = json.loads((ROOT / "benchmarks/results/2026-11-27-ml-1m-d64-dnn-compressed-cpu2.json").read_text())
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs" / "savings.svg").read_text(encoding="utf-8"))
    texts = [text.strip() for text in texts]
    drawn = bars(result)
    assert [bar.name for bar in drawn] == list(SUBJECTS.values())
    for bar in drawn:
        assert bar.name in texts
        assert bar.auc is None or f"AUC {bar.auc:.4f}" in texts
        assert label(bar.bytes, drawn[0].bytes, "bytes") in texts
        assert label(bar.p50_us, drawn[0].p50_us, "p50_us") in texts
    native = next(bar for bar in drawn if bar.name == "compressed, native operators")
    said = (native.bytes / drawn[0].bytes, native.p50_us / drawn[0].p50_us)
    assert all(f"{part:.2f} of" in README for part in said)
    assert all(f"{auc:.4f}".lstrip("0") in README for auc in (native.auc or 0, drawn[0].auc or 0))
