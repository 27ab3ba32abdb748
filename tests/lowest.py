"""The lowest direct versions that pyproject.toml allows: what `make lowest` installs.

python tests/lowest.py [EXTRA ...]         # one requirement a line, those of the package and of the extras
python tests/lowest.py --as-stated EXTRA   # those of the extra alone, as they are; the package is not installed again
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """`name>=1.2,<3` → `name==1.2`; an exact version stays.

    Raises:
        ValueError: the requirement has no lower bound, or more than one.
    """
    bounds = re.findall(r"(?:>=|==)\s*([\w.]+)", requirement)
    name = re.match(r"[\w.-]+(\[[\w,\s-]+\])?", requirement)
    if name is None or len(bounds) != 1:
        raise ValueError(f"{requirement!r} has {len(bounds)} lower bounds; give one, with >= or ==")
    return f"{name[0]}=={bounds[0]}"


def requirements(extras: Iterable[str]) -> list[str]:
    """Of the package and of its extras, each at its lowest version."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]
    return [lowest(requirement) for requirement in wanted]


def stated(extra: str) -> list[str]:
    """Of an extra, as pyproject.toml has them, without spaces."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return [requirement.replace(" ", "") for requirement in project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(stated(sys.argv[2]) if sys.argv[1:2] == ["--as-stated"] else requirements(sys.argv[1:])))
