"""The results page shows what the committed results say."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.file_format import FileFormat, JoinSchema
from amtl_export.data.schema import ColumnSplit, FilesSplit, RandomSplit, Schema, TimeSplit
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
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    words = [sys.executable, "docs/commands.py"]
    written = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "\n## bench server\n" in written
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written, "run the line at the page's head"


def test_the_tables_of_figures_are_what_the_results_say() -> None:
    done = subprocess.run([sys.executable, "docs/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_page_is_in_one_of_the_four_parts_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    first, *parts = site["nav"]
    assert first == "index.md"
    assert [name for part in parts for name in part] == ["Tutorial", "How to", "Reference", "Explanation"]
    docs = ROOT / "docs"
    assert sorted([first, *listed(parts)]) == sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.md"))


def listed(entries: list[Any]) -> Iterator[str]:
    """Pages of a part of the site, and of the parts below it."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from listed(below)


@pytest.mark.parametrize(
    ("page", "up", "beside"),
    [("score.md", "../", "benchmarks/lookups.md"), ("benchmarks/lookups.md", "../../", "../score.md#a")],
)
def test_links_out_of_docs_lead_to_the_repository_on_the_site(page: str, up: str, beside: str) -> None:
    """Those to other pages stay, from a folder as well."""
    hook = runpy.run_path(str(ROOT / "docs" / "links.py"))
    text = f"[a]({up}benchmarks/lookup.py) ![b]({up}docs/savings.svg) [c]({beside})"
    made = hook["on_page_markdown"](text, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)))
    assert made == f"[a]({hook['HOME']}benchmarks/lookup.py) ![b]({hook['RAW']}docs/savings.svg) [c]({beside})"


def test_the_reference_of_schemas_has_every_key_with_its_default() -> None:
    """Tables under "Every key" against the models that read schema.toml."""
    text = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8").split("## Every key")[1].split("\n## ")[0]
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    parts: list[tuple[type[BaseModel], ...]] = [
        (Schema,),
        (FileFormat,),
        (RandomSplit, TimeSplit, ColumnSplit, FilesSplit),
        (JoinSchema,),
        (FieldSchema,),
    ]
    for lines, models in zip(tables, parts, strict=True):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        stated = {key.strip(" `"): cells for cells in rows for key in cells[0].split(",")}
        known = {f.alias or name: f for model in models for name, f in model.model_fields.items()}
        known = {name: f for name, f in known.items() if name not in ("files", "split", "field", "join")}
        assert set(stated) == set(known)
        for name, field in known.items():
            if len(models) == 1 and stated[name][0].strip("`") == name:
                shown = stated[name][2].strip("`")
                assert (shown == "needed") == field.is_required(), name
                if isinstance(field.default, bool | int):
                    assert shown == str(field.default).lower(), name
