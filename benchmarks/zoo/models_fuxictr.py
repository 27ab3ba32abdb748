"""FuxiCTR: the models that its wheel ships (`model_zoo.LongCTR`), which take a tuple (columns, items, mask), and ones
of its layers, put together as its guide has it.

Items come as `[batch, length + 1]`, the history first and the candidate last. (Its own loader hands the same numbers
over as one flat vector; the models' `view(batch, -1, D)` takes either.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from entry import Inputs, Model, history, zipf
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    CompressedInteractionNet,
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    InnerProductInteraction,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn

SIZES = {"user": 4000, "city": 900, "item": 6000, "category": 300}
LENGTH, D = 16, 16
COMMON = {
    "task": "binary_classification",
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "metrics": ["AUC"],
    "verbose": 0,
    "model_root": ".",
    "gpu": -1,
    "embedding_dim": D,
}
LAYERS = {"dnn_hidden_units": [64, 32], "short_seq_len": 6, "attention_dim": 16, "batch_norm": True}


def features() -> Any:
    """Two columns of the user, two of the item."""
    found = FeatureMap("zoo", ".")
    for name, size in SIZES.items():
        source = "item" if name in ("item", "category") else "user"
        padded = {"padding_idx": 0} if source == "item" else {}
        found.features[name] = {"type": "categorical", "source": source, "vocab_size": size, **padded}
    found.labels, found.num_fields = ["click"], len(SIZES)
    found.default_emb_dim = D
    found.set_column_index()
    return found


def long(name: str, **more: Any) -> Model:
    def build() -> nn.Module:
        kind = getattr(importlib.import_module(f"model_zoo.LongCTR.{name}"), name)
        made: nn.Module = kind(features(), **COMMON, **more)
        return made

    return Model("fuxictr", name, build, sequences)


def sequences(rows: int) -> Inputs:
    columns = {name: zipf(SIZES[name], rows) for name in ("user", "city")}
    past, lengths = history(SIZES["item"], rows, LENGTH)
    mask = (torch.arange(LENGTH) < lengths[:, None]).float()
    kinds = zipf(SIZES["category"], rows, LENGTH, first=1) * mask.long()
    items = {"item": (past, zipf(SIZES["item"], rows, 1)), "category": (kinds, zipf(SIZES["category"], rows, 1))}
    return {"inputs": (columns, {name: torch.cat(parts, 1) for name, parts in items.items()}, mask)}


def flat(rows: int) -> Inputs:
    return {"inputs": {name: zipf(size, rows) for name, size in SIZES.items()}}


class Flat(BaseModel):  # type: ignore[misc]
    """An MLP and one interaction over the same embeddings, added up."""

    def __init__(self, fields: Any, **more: Any) -> None:
        super().__init__(fields, **COMMON, **more)
        self.embedding_layer = FeatureEmbedding(fields, D)
        self.mlp = MLP_Block(input_dim=fields.sum_emb_out_dim(), output_dim=1, hidden_units=[64, 32])
        self.interaction = self.made(fields)
        self.compile(COMMON["optimizer"], COMMON["loss"], 1e-3)

    def made(self, fields: Any) -> Any:
        """The interaction."""
        return FactorizationMachine(fields)

    def crossed(self, columns: Any, embedded: Tensor) -> Any:
        """Its logit `[batch, 1]`."""
        return self.interaction(columns, embedded)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`y_pred` `[batch, 1]`."""
        columns = self.get_inputs(inputs)
        embedded = self.embedding_layer(columns)
        logit = self.mlp(embedded.flatten(start_dim=1)) + self.crossed(columns, embedded)
        return {"y_pred": self.output_activation(logit)}


class XDeepFM(Flat):
    """A compressed interaction network."""

    def made(self, fields: Any) -> Any:
        """The network."""
        return CompressedInteractionNet(fields.num_fields, [16, 16])

    def crossed(self, columns: Any, embedded: Tensor) -> Any:  # noqa: ARG002
        """Its logit."""
        return self.interaction(embedded)


class InnerProducts(XDeepFM):
    """The sum of all pairs' products."""

    def made(self, fields: Any) -> Any:
        """The layer."""
        return InnerProductInteraction(fields.num_fields, output="product_sum")


class Crossed(XDeepFM):
    """A cross network, version 2."""

    def made(self, fields: Any) -> Any:
        """The network and its head."""
        width = fields.sum_emb_out_dim()
        return nn.Sequential(nn.Flatten(), CrossNetV2(width, 3), nn.Linear(width, 1))


def of_layers(name: str, kind: type[Flat]) -> Model:
    made: Callable[[], nn.Module] = lambda: kind(features())  # noqa: E731
    return Model("fuxictr", f"{name}, of its layers", made, flat)


SEARCH = {key: LAYERS[key] for key in LAYERS} | {"topk": 5}
MODELS = [
    long("DCNv2", parallel_dnn_hidden_units=[64, 32], num_cross_layers=2),
    long("FinalMLP", mlp1_hidden_units=[64, 32], mlp2_hidden_units=[64, 32], use_fs=False, num_heads=2),
    long("DIN", dnn_hidden_units=[64, 32], attention_hidden_units=[32]),
    long("DIEN", dnn_hidden_units=[64, 32]),
    long("SDIM", **LAYERS),
    long("ETA", **SEARCH),
    long("SIM", **SEARCH),
    long("TWIN", **SEARCH),
    long("MIRRN", **SEARCH, max_len=LENGTH),
    long("TransAct"),
    of_layers("DeepFM", Flat),
    of_layers("xDeepFM", XDeepFM),
    of_layers("PNN", InnerProducts),
    of_layers("DCNv2", Crossed),
]
