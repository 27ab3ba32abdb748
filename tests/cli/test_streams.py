"""Standard output: JSON alone where that was asked for, in any encoding, and with a reader that leaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.cli.main import run as called
from amtl_export.cli.streams import take_any_text
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

PRINTS = """
import os
import torch

print("imported")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.items = torch.nn.Embedding(30, 4)

    def forward(self, item):
        return self.items(item).sum(-1)


def build():
    print("built")
    if {starts}:
        os.system("echo started")
    return Model(), (torch.arange(6),)
"""


def test_what_a_module_prints_is_no_part_of_the_json(amtl_here: Command, tmp_path: Path) -> None:
    (tmp_path / "prints_model.py").write_text(PRINTS.format(starts=False))
    done = amtl_here("freeze", f"{tmp_path}/prints_model.py:build", "--out", tmp_path / "frozen", "--json", "-")
    assert json.loads(done.stdout)["kind"] == "module"
    assert "imported\nbuilt" in done.stderr


def test_nor_what_its_processes_print(amtl: Command, tmp_path: Path) -> None:
    (tmp_path / "prints_model.py").write_text(PRINTS.format(starts=True))
    done = amtl("freeze", "prints_model.py:build", "--out", "frozen", "--json", "-", cwd=tmp_path)
    assert json.loads(done.stdout)["kind"] == "module"
    assert "started" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_that_lacks_characters(encoding: str, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    take_any_text()
    assert called(["inspect", str(bundle_copy)]) == 0
    stream.seek(0)
    assert "mean dims" in stream.read()


@pytest.mark.parametrize("more", [[], ["--json", "-"]])
def test_a_reader_that_leaves_changes_no_exit_code(
    more: list[str], bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, fbe_run: Run
) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert called(["validate", str(bundle_copy), "--run", str(fbe_run.path), *more]) == 3
