"""What an export takes beside the model, as peak memory of a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import torch
from torch import nn
from amtl_export.source.source import Source

class Model(nn.Module):
    def __init__(self, V):
        super().__init__()
        self.item = nn.Embedding(V, 16)
        self.last = nn.Linear(16, 1)
    def forward(self, item):
        return self.last(self.item(item)).squeeze(-1)

def of(V):
    torch.manual_seed(0)
    return Source(Model(V), {"item": torch.arange(8)})

def small():
    return of(100)

def large():
    return of(1 << 20)
"""
PROGRAM = """
import resource, sys
from amtl_export import ExportConfig, export, freeze, validate
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = ExportConfig(layout=sys.argv[1])
peaks = []
for size in ("small", "large"):
    source = f"model.py:{size}"
    frozen = freeze(source)
    if size == "large":
        peaks.append(peak())
    bundle = export(frozen, size, config)
    peaks.append(peak())
    verdict = validate(bundle.path, frozen)
    assert verdict.verdict == "pass", verdict.problems
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize("layout", ["ragged", "dense"])
def test_export_and_validate_hold_few_tables(tmp_path: Path, layout: str) -> None:
    (tmp_path / "model.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, layout], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    _, tiny, opened, exported, validated = (int(n) / (64 * 1024) for n in re.findall(r"\d+", done.stdout))
    # Tables of 64 MiB above a tiny export: the module, its layout, and the bundle's own file, mapped.
    assert opened - tiny < 1.5
    assert exported - tiny < 3.0
    assert validated - tiny < 4.5
