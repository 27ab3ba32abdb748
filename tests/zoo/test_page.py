"""The page on the zoo is what its script makes of the newest result, and enough of it is right."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "zoo"))
page: Any = importlib.import_module("page")


def newest() -> Path:
    return sorted((ROOT / "benchmarks" / "results").glob("*-zoo-*.json"))[-1]


def test_the_page_is_the_results() -> None:
    report = json.loads(newest().read_text(encoding="utf-8"))
    made = page.markdown(report, newest().relative_to(ROOT).as_posix())
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == made


def test_six_libraries_and_reasons_for_the_rest() -> None:
    cases = json.loads(newest().read_text(encoding="utf-8"))["cases"]
    assert len({case["library"] for case in cases}) == 6
    assert sum(case["right"] for case in cases) >= 40
    assert all(case["right"] or case["reason"] for case in cases)
