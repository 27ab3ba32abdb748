"""A signal that comes while a library is imported ends the process at once, and still nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORK = """
import signal, sys
from pathlib import Path
from amtl_export.cli.main import _interrupt
from amtl_export.files import atomic_folder
from amtl_export.locks import locked
signal.signal(signal.SIGTERM, _interrupt)
sys.path.insert(0, "libraries")
with locked(Path("new/m")), atomic_folder(Path("new/m")) as draft:
    (draft / "x").write_text("x")
    import asked_to_end
"""
LIBRARY = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
while True:
    pass
"""


def test_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "asked_to_end.py").write_text(LIBRARY)
    done = subprocess.run([sys.executable, "-B", "-c", WORK], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["libraries", "asked_to_end.py"]
