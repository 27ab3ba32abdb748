"""What the project says of itself agrees: version, changelog, links, workflows, citation."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import amtl_export

ROOT = Path(__file__).resolve().parents[1]
HOME = "https://github.com/amtl-export/amtl-export"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_is_stated_once() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "amtl_export.__version__"}
    assert str(parsed("CITATION.cff")["version"]) == amtl_export.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *_ = re.findall(r"^## \[(.+?)\]( - \d{4}-\d\d-\d\d)?$", changelog, flags=re.MULTILINE)
    assert first[0] == "Unreleased" or first == (amtl_export.__version__, first[1])
    assert amtl_export.__version__ in changelog
    assert f"\n[{first[0]}]: {HOME}/" in changelog


def test_the_pythons_are_those_of_the_matrix() -> None:
    classifiers = PYPROJECT["project"]["classifiers"]
    pythons = [c.rpartition(" ")[2] for c in classifiers if re.search(r":: 3\.\d+$", c)]
    assert pythons == parsed(".github/workflows/test.yml")["jobs"]["matrix"]["strategy"]["matrix"]["python"]
    assert PYPROJECT["project"]["requires-python"] == f">={pythons[0]}"


def test_both_ends_of_the_range_of_torch_are_tried() -> None:
    (torch,) = [r for r in PYPROJECT["project"]["optional-dependencies"]["export"] if r.startswith("torch")]
    low, past = re.findall(r"\d+\.(\d+)", torch)
    matrix = parsed(".github/workflows/test.yml")["jobs"]["matrix"]["strategy"]["matrix"]
    tried = {*matrix["torch"], *(row["torch"] for row in matrix["include"])}
    assert tried == {f"torch==2.{minor}.*" for minor in range(int(low), int(past))}
    assert f"TORCH ?= torch==2.{low}.0" in MAKEFILE


@pytest.mark.parametrize("name", ["test", "wheels", "docs", "release"])
def test_workflows_run_what_there_is(name: str) -> None:
    workflow = parsed(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
    for job in jobs.values():
        assert {job["needs"]} if isinstance(job.get("needs"), str) else set(job.get("needs", [])) <= set(jobs)
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
        for line in (step.get("run", "") for step in job.get("steps", [])):
            assert set(re.findall(r"^make (\w+)", line)) <= targets
            for path in re.findall(r"\btests/[\w/.]+", line):
                assert (ROOT / path).exists(), path


def test_other_yaml_can_be_read() -> None:
    names = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(names) == 10
    for file in names:
        assert yaml.safe_load(file.read_text(encoding="utf-8")), file


def test_links_of_the_readme_work_on_an_index_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    defined = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", readme, flags=re.MULTILINE))
    assert set(re.findall(r"\]\[([\w-]+)\]", readme)) == set(defined)
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", readme))
    ours = list(defined.values())
    assert {"savings", "license"} <= set(defined)
    for target in ours:
        path = re.sub(r"^https://[\w.]+/amtl-export/amtl-export/(blob/)?main/", "", target).partition("#")[0]
        assert (ROOT / path).is_file(), target
    assert all(url.startswith(HOME) for url in PYPROJECT["project"]["urls"].values())


def test_benchmarks_install_their_peers_and_leave_the_package_alone() -> None:
    """`make bench` runs in the environment of `make test`: it adds packages, and installs this one no second time."""
    lines = subprocess.run(["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    (installs,) = [line for line in lines.stdout.splitlines() if "lowest.py" in line]
    assert "install" in installs
    words = [sys.executable, "tests/lowest.py", "--as-stated", "peers"]
    stated = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert stated == PYPROJECT["project"]["optional-dependencies"]["peers"]
