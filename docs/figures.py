"""Results that pages quote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def read(name: str) -> Any:
    """A result."""
    return json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
