"""The page on serving: its commands end with a real server that gives the sample's right scores, its code runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from triton_server import serving

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.real_data
def test_the_pages_commands_end_with_the_right_scores(triton: Path, real_data: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    installed, train, export, package, serve, client = block.splitlines()
    assert installed == "make triton"  # what the fixture `triton` found
    (tmp_path / "data").symlink_to(real_data)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    for command in (train, export, package):
        done = run(command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    program = shlex.split(serve.removesuffix(" &"))
    assert program == ["python", "benchmarks/triton_server", "serve", ".triton", "repository"]
    with serving(triton, tmp_path / "repository", tmp_path / "log") as server:
        asked = run(f"{client} http://127.0.0.1:{server.http}")
        assert asked.returncode == 0, asked.stderr
        assert "probability [" in asked.stdout
        spoil(tmp_path / "repository" / "ml_1m" / "samples" / "response.json")
        assert run(f"{client} http://127.0.0.1:{server.http}").returncode == 1
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def spoil(response: Path) -> None:
    """Another first score."""
    response.write_text(re.sub(r"(\"data\": \[\s*)", r"\g<1>9.0, ", response.read_text(encoding="utf-8"), count=1))
