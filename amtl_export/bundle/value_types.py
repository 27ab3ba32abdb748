"""The value type that an AUC drop allows, judged in PyTorch on labelled examples: a run's valid split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from amtl_export.bundle.export import ExportConfig, build
from amtl_export.bundle.reference import reference_of
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import torch_auc
from amtl_export.stages import stage
from amtl_export.tables.values import VALUE_TYPES, ValueType, fake_quantized, quantize, value_types


def auc_changes(frozen: FrozenModel, config: ExportConfig | None = None) -> dict[ValueType, float]:
    """Value type → |ΔAUC| that quantizing a model's tables to it makes; of several scores, the largest.

    Infinite for a type that a number is too large for, or that the config's layout does not hold.

    Args:
        frozen: the model.
        config: whose layers are quantized too, where it says so.

    Raises:
        InputError: the model comes without labelled examples, or no layer gains by int8.
    """
    layers = config is not None and config.layer_dtype == "int8"

    def worth(model: FrozenModel) -> dict[str, float]:
        return torch_auc(model, "valid", trained=False)

    exact = worth(frozen)
    changes: dict[ValueType, float] = {}
    for dtype in VALUE_TYPES:
        held = _held(config, dtype) if config is not None else None
        if config is not None and held is None:
            changes[dtype] = math.inf
            continue
        try:
            rows = quantize(frozen, value_types(frozen, dtype))
        except InputError:
            changes[dtype] = math.inf
            continue
        found = worth(_as_written(frozen, held) if layers and held else fake_quantized(frozen, rows))
        changes[dtype] = float(np.max([abs(found[name] - exact[name]) for name in exact]))  # NaN stays NaN
    return changes


def choose_dtype(frozen: FrozenModel, config: ExportConfig, max_auc_drop: float) -> ExportConfig:
    """The config with the smallest value type that its layout holds and whose |ΔAUC| is at most `max_auc_drop`.

    Raises:
        InputError: the model comes without labelled examples, or a value type was asked for as well.
    """
    if config.dtype != "auto":
        raise InputError("export: max_auc_drop chooses the value type", found=f"dtype={config.dtype!r} as well")
    changes = auc_changes(frozen, config)
    allowed = (dtype for dtype in reversed(VALUE_TYPES) if changes[dtype] <= max_auc_drop)
    found = next((held for dtype in allowed if (held := _held(config, dtype))), None)
    if found is None:
        raise InputError(
            "export: no value type that goes with the layout costs as little AUC",
            found={dtype: f"{change:.3g}" for dtype, change in changes.items()},
            allowed=max_auc_drop,
            fix="a larger drop" + (", or layer_dtype='fp32'" if config.layer_dtype == "int8" else ""),
        )
    return found


def _as_written(frozen: FrozenModel, config: ExportConfig) -> FrozenModel:
    """The model with the numbers, in tables and layers, that a bundle of this config has."""
    built = build(frozen, config)
    stage(f"scoring the valid split with numbers in {config.stored}")
    return reference_of(frozen, built.stored, built.model)


def _held(config: ExportConfig, dtype: ValueType) -> ExportConfig | None:
    """The config with a value type; None where its layout does not hold it."""
    try:
        return replace(config, dtype=dtype)
    except InputError:
        return None
