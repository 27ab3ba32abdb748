"""The main ways through the tool, of a run and of a user's module; `make lowest` runs them with the lowest versions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amtl_export import ExportConfig, FrozenModel, Run, Tolerances, export, freeze, load, validate

Command = Callable[..., subprocess.CompletedProcess[str]]

MODULE = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.item_emb = nn.Embedding(300, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, item):
        return torch.sigmoid(self.out(self.item_emb(item))).squeeze(-1)


def build():
    torch.manual_seed(0)
    return Mine(), {"item": torch.randint(0, 300, (64,))}
"""

#: What the exporter's parts disagree on between versions: each layout, fused and split layers, each value type.
WAYS = {
    "request": ExportConfig("dense", request_fields=("user",)),
    "paged": ExportConfig("paged", page_width=4, dtype="fp16"),
    "blocks": ExportConfig("blocks"),
    "fused": ExportConfig("ragged", first_layer="fused"),
    "int8": ExportConfig("ragged", first_layer="fused", dtype="int8", layer_dtype="int8"),
}


def done(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.parametrize("way", WAYS)
def test_a_run_from_python(frozen: FrozenModel, run: Run, tmp_path: Path, way: str) -> None:
    bundle = export(frozen, tmp_path / "bundle", WAYS[way])
    verdict = validate(bundle.path, run.path, tolerances=Tolerances(auc_atol=1e-2))
    assert (verdict.verdict, verdict.problems) == ("pass", [])
    if way == "request":  # computed once, not repeated for each candidate
        assert "Expand" not in bundle.report()["ops"]


def test_a_run_by_command(amtl: Command, tmp_path: Path) -> None:
    made = ["--data", "synthetic:rows=4000,values=60", "--dim", 8, "--epochs", 1, "--hidden", "16"]
    done(amtl("train", *made, "--out", tmp_path / "run", "-q"))
    done(amtl("export", tmp_path / "run", "--out", tmp_path / "bundle", "-q"))
    assert "PASS" in done(amtl("validate", tmp_path / "bundle", "--run", tmp_path / "run"))
    timed = done(amtl("bench", "infer", tmp_path / "bundle", "--vs", tmp_path / "run", "--batch", 8, "--seconds", 0.1))
    assert "onnx-dense" in timed


def test_a_users_module_by_command(amtl: Command, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(MODULE)
    done(amtl("export", "my_model.py:build", "--out", "bundle", "-q", cwd=tmp_path))
    assert "PASS" in done(amtl("validate", "bundle", "--run", "my_model.py:build", cwd=tmp_path))


def test_a_users_module_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smoke_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    model, example = __import__("smoke_model").build()
    try:
        bundle = export(freeze(model, example=example), tmp_path / "bundle", ExportConfig(layout="paged", page_width=4))
        verdict = validate(bundle.path, model, example)
        assert (verdict.verdict, verdict.problems) == ("pass", [])
        (scores,) = load(bundle.path).predict({name: value.numpy() for name, value in example.items()}).values()
        torch.testing.assert_close(torch.from_numpy(scores), model(**example).detach(), rtol=1e-5, atol=1e-6)
    finally:
        sys.modules.pop("smoke_model", None)
