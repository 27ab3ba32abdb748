"""amtl-export report and compare."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from amtl_export.bundle.bundle import Bundle
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_commands(
    paged_bundle: Bundle,
    run: Run,
    fbe_run: Run,
    tmp_path: Path,
    amtl_here: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    bundle = paged_bundle.path
    done = amtl_here("report", bundle, "--vs", run.path, "--out", tmp_path / "page.html", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"path": str(tmp_path / "page.html"), "verdict": "pass"}
    done = amtl_here("report", bundle, "--vs", fbe_run.path, "--out", tmp_path / "wrong.html")
    assert done.returncode == 3
    assert (tmp_path / "wrong.html").is_file()
    done = amtl_here("compare", bundle, bundle, "--json", "-")
    assert json.loads(done.stdout)["differing"] == []
