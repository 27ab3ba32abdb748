"""The value type that a largest AUC drop allows, judged in PyTorch on the run's valid split."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from amtl_export.bundle.export import ExportConfig
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.tables.values import VALUE_TYPES, ValueType, quantized
from amtl_export.training.batches import predict
from amtl_export.training.metrics import auc
from amtl_export.training.run import load_run


def auc_changes(path: Path) -> dict[ValueType, float]:
    """Value type → |ΔAUC| on the valid split that quantizing a run's tables to it makes.

    Infinite for a type that a number is too large for.

    Raises:
        InputError: the folder is not a run.
    """
    run = load_run(path)
    rows, frozen = run.rows("valid"), freeze(run)
    exact = auc(predict(frozen.module, rows), rows.label)
    changes: dict[ValueType, float] = {}
    for dtype in VALUE_TYPES:
        try:
            changes[dtype] = abs(auc(predict(quantized(frozen, dtype).module, rows), rows.label) - exact)
        except ValueError:
            changes[dtype] = math.inf
    return changes


def choose_dtype(path: Path, config: ExportConfig, max_auc_drop: float) -> ExportConfig:
    """The config with the smallest value type whose |ΔAUC| is at most `max_auc_drop`.

    Raises:
        InputError: the folder is not a run, or a value type was asked for as well.
    """
    if config.dtype != "fp32":
        raise InputError("export: --max-auc-drop chooses the value type", found=f"--dtype {config.dtype} as well")
    changes = auc_changes(path)
    allowed: list[ValueType] = [dtype for dtype in VALUE_TYPES if changes[dtype] <= max_auc_drop]
    return replace(config, dtype=allowed[-1])
