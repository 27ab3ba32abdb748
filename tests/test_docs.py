"""The results page shows what the committed results say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from amtl_export.experiments.report import markdown, speed_markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"benchmarks/results/[\w.\-]+\.json", PAGE)))


def load(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in NAMES if "-table1-" not in name])
def test_the_table_of_every_result_is_on_the_page(name: str) -> None:
    values = load(name)
    text = markdown(values) if "arms" in values else speed_markdown(values)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 3
    start = PAGE.index(rows[0], PAGE.index(name))
    assert PAGE[start:].splitlines()[: len(rows) + 1] == [rows[0], "|---" * (rows[0].count("|") - 1) + "|", *rows[1:]]


@pytest.mark.parametrize("name", [name for name in NAMES if "-table1-" in name])
def test_table_1_is_the_trainings_of_table_2(name: str) -> None:
    one, two = load(name), load(name.replace("-table1-", "-table2-"))
    assert [arm["runs"] for arm in one["arms"]] == [arm["runs"] for arm in two["arms"]]


def test_pictures_and_links_lead_somewhere() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
