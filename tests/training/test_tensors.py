import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from amtl_export.errors import InputError
from amtl_export.training.tensors import StoredTensors, load_into, load_tensors, save_tensors

TYPES = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def tensors() -> dict[str, torch.Tensor]:
    made = {f"{name}/{dtype}": torch.randint(0, 2, (3, 5)).to(dtype) for dtype in TYPES for name in ("b", "é")}
    rows = torch.randn(10, 6)
    made |= {"none": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "turned": rows.T, "columns": rows[:, 1:3]}
    return made | {"tied": rows, "parameter": torch.nn.Parameter(rows)}


def test_a_file_is_what_safetensors_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amtl_export.training.tensors._COPIED", 7)
    given = tensors()
    save_tensors(given, tmp_path / "x.safetensors")
    expected = safetensors.torch.save({name: tensor.detach().clone().contiguous() for name, tensor in given.items()})
    assert (tmp_path / "x.safetensors").read_bytes() == expected


def test_a_type_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tensor odd\n  found: torch\.complex128"):
        save_tensors({"odd": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_what_is_written_to_a_mapped_tensor_stays_out_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_tensors({"rows": torch.ones(4, 2)}, file)
    before = file.read_bytes()
    load_tensors(file)["rows"].zero_()
    assert file.read_bytes() == before
    stored = StoredTensors(file)
    file.unlink()  # a checkpoint that is dropped
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {"rows": [[1.0, 1.0]] * 4}


def test_not_finite_values_are_counted_over_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amtl_export.training.tensors._COPIED", 3)
    module = torch.nn.Linear(4, 2)
    values = dict(module.state_dict()) | {"weight": torch.ones(2, 4)}
    values["weight"][0, 0], values["weight"][1, 3] = torch.inf, torch.nan
    with pytest.raises(InputError, match=r"tensor weight\n  found: 2 of 8"):
        load_into(module, values, tmp_path)


#: Peak memory in KiB of a process that makes a checkpoint of a table of 64 MiB, and goes back to it.
PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.training.checkpoint import Progress, latest, load_checkpoint, save_checkpoint
from amtl_export.training.config import TrainConfig
from amtl_export.training.state import build_optimizers
V, D = 1 << 20, 16
config = ModelConfig(embedded=(EmbeddedField("f", V),), dim=D, method="fbe", sparse=True)
model = CtrModel(config, [torch.arange(V, 0, -1)])
optimizers = build_optimizers(model, TrainConfig(data="x", dim=D))
model(torch.randint(0, V, (64, 1)), None, ()).sum().backward()
for optimizer in optimizers:
    optimizer.step()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peaks = [peak()]
best = save_checkpoint(Path(sys.argv[1]), Progress(1, 1, 0.5, [1.0]), model, None, optimizers)
save_checkpoint(Path(sys.argv[1]), Progress(2, 1, 0.5, [1.0, 1.0]), model, best, optimizers)
print(*peaks, peak())
"""


def test_a_checkpoint_is_written_without_a_copy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    before, after = map(int, re.findall(r"\d+", done.stdout))
    assert after - before < 16 * 1024  # a quarter of the table
    files = {path.name: path.stat() for path in (tmp_path / "checkpoint-2").iterdir()}
    table = 4 * 16 * (1 << 20)
    assert files["best.safetensors"].st_size == files["model.safetensors"].st_size
    assert files["model.safetensors"].st_size < 1.01 * table
    assert files["state.safetensors"].st_size < 2.01 * table
    assert files["best.safetensors"].st_ino != files["model.safetensors"].st_ino  # of the first epoch
