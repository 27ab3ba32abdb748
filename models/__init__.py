"""PyTorch models: embedding methods, backbones, and the click-through model that joins them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField, SelectionConfig
    from amtl_export.models.ctr import CtrModel
    from amtl_export.models.protocol import EmbeddingMethod

#: Name → the module that has it. Settings load no torch, so nothing is loaded before it is asked for.
_HOME = {
    "CtrModel": "ctr",
    "EmbeddedField": "config",
    "EmbeddingMethod": "protocol",
    "ModelConfig": "config",
    "NumericField": "config",
    "SelectionConfig": "config",
}

__all__ = ["CtrModel", "EmbeddedField", "EmbeddingMethod", "ModelConfig", "NumericField", "SelectionConfig"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"amtl_export.models.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
