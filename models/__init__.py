"""PyTorch models: embedding methods, backbones, and the click-through model that joins them."""

from amtl_export.models.attach import attach
from amtl_export.models.config import EmbeddedField, ModelConfig, NumericField, SelectionConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import EmbeddingMethod

__all__ = ["CtrModel", "EmbeddedField", "EmbeddingMethod", "ModelConfig", "NumericField", "SelectionConfig", "attach"]
