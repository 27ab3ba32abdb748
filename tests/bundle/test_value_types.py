"""The value type that a largest AUC drop allows."""

import math
from pathlib import Path

from amtl_export.bundle.export import ExportConfig
from amtl_export.bundle.value_types import auc_changes, choose_dtype
from amtl_export.freezing.frozen import freeze
from amtl_export.training.tensors import load_tensors, save_tensors


def test_a_type_that_cannot_hold_the_numbers_is_not_allowed(run_copy: Path) -> None:
    file = run_copy / "model.safetensors"
    tensors = load_tensors(file)
    (table,) = [
        name for name in tensors if name.startswith("embedding") and name.endswith("weight") and "sel" not in name
    ]
    tensors[table][5, 0] = 1e6
    file.unlink()
    save_tensors(tensors, file)
    frozen = freeze(run_copy)
    changes = auc_changes(frozen)
    assert changes["fp32"] == 0
    assert changes["fp16"] == math.inf
    assert math.isfinite(changes["int8"])
    assert choose_dtype(frozen, ExportConfig(), max_auc_drop=0).dtype == ("int8" if changes["int8"] == 0 else "fp32")
