"""deepctr-torch: every model takes one float matrix of ids, values and padded histories, and knows columns by place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, build_input_features
from deepctr_torch.models import (
    AFM,
    AFN,
    CCPM,
    DCN,
    DIEN,
    DIFM,
    DIN,
    ESMM,
    IFM,
    MMOE,
    NFM,
    ONN,
    PLE,
    PNN,
    WDL,
    AutoInt,
    DCNMix,
    DeepFM,
    FiBiNET,
    SharedBottom,
    xDeepFM,
)
from entry import Inputs, Model, history, zipf
from torch import nn

SIZES = {"user": 4000, "item": 6000, "category": 300, "city": 900}
LENGTH, D = 10, 16
SMALL = (64, 32)
DRAWN = {"init_std": 0.3}  # the default, 0.0001, gives every example the same answer

SPARSE = [SparseFeat(name, size, embedding_dim=D) for name, size in SIZES.items()]
PRICE = DenseFeat("price", 1)
WORDS = VarLenSparseFeat(SparseFeat("words", 2000, embedding_dim=D), maxlen=5, combiner="mean")
FLAT = [*SPARSE, PRICE]
VISITED = SparseFeat("hist_item", SIZES["item"], embedding_dim=D, embedding_name="item")
IN_ORDER = [*SPARSE, PRICE, VarLenSparseFeat(VISITED, maxlen=LENGTH, length_name="length")]


def batch(columns: list[Any]) -> Callable[[int], Inputs]:
    """Batches of `X` float32 `[rows, width]` laid out as the library does."""
    places = build_input_features(columns)

    def draw(rows: int) -> Inputs:
        past, lengths = history(SIZES["item"], rows, LENGTH, least=2)
        words, _ = history(2000, rows, 5)
        given = {"hist_item": past, "length": lengths, "words": words, "price": torch.rand(rows)}
        found = {name: given[name] if name in given else zipf(SIZES[name], rows) for name in places}
        return {"X": torch.cat([found[name].reshape(rows, -1).float() for name in places], 1)}

    return draw


def of(name: str, build: Callable[[], nn.Module], columns: list[Any] = FLAT) -> Model:
    return Model("deepctr-torch", name, build, batch(columns))


def pair(kind: Any, columns: list[Any] = FLAT, **more: Any) -> Callable[[], nn.Module]:
    """A model with a linear part and a deep one over the same columns."""
    return lambda: kind(columns, columns, **more, **DRAWN)


def deep(kind: Any, *given: Any, **more: Any) -> Callable[[], nn.Module]:
    """A model with a deep part alone."""
    return lambda: kind(*given, **more, **DRAWN)


def din() -> nn.Module:
    """Its deep part does not get `init_std`."""
    model = DIN(IN_ORDER, ["item"], dnn_hidden_units=SMALL, **DRAWN)
    for layer in model.dnn.linears:
        nn.init.normal_(layer.weight, std=0.3)
    return model  # type: ignore[no-any-return]


BAGS = [*FLAT, WORDS]
MODELS = [
    of("WDL", pair(WDL, BAGS, dnn_hidden_units=SMALL), BAGS),
    of("DeepFM", pair(DeepFM, BAGS, dnn_hidden_units=SMALL), BAGS),
    of("xDeepFM", pair(xDeepFM, dnn_hidden_units=SMALL, cin_layer_size=(32, 16))),
    of("AFM", pair(AFM, SPARSE), SPARSE),
    of("AFN", pair(AFN, ltl_hidden_size=64, afn_dnn_hidden_units=SMALL)),
    of("AutoInt", pair(AutoInt, dnn_hidden_units=SMALL)),
    of("CCPM", pair(CCPM, SPARSE, dnn_hidden_units=SMALL), SPARSE),
    of("DCN", pair(DCN, dnn_hidden_units=SMALL)),
    of("DCN, matrix", pair(DCN, dnn_hidden_units=SMALL, cross_parameterization="matrix")),
    of("DCNMix", pair(DCNMix, dnn_hidden_units=SMALL)),
    of("DIFM", pair(DIFM, dnn_hidden_units=SMALL)),
    of("IFM", pair(IFM, dnn_hidden_units=SMALL)),
    of("FiBiNET", pair(FiBiNET, dnn_hidden_units=SMALL)),
    of("NFM", pair(NFM, dnn_hidden_units=SMALL)),
    of("ONN", pair(ONN, dnn_hidden_units=SMALL)),
    of("PNN", deep(PNN, FLAT, dnn_hidden_units=SMALL)),
    of("PNN, outer", deep(PNN, FLAT, dnn_hidden_units=SMALL, use_inner=False, use_outter=True)),
    of("DIN", din, IN_ORDER),
    of("DIEN", deep(DIEN, IN_ORDER, ["item"], dnn_hidden_units=SMALL), IN_ORDER),
    of("DIEN, AUGRU", deep(DIEN, IN_ORDER, ["item"], gru_type="AUGRU", dnn_hidden_units=SMALL), IN_ORDER),
    of("SharedBottom", deep(SharedBottom, FLAT, bottom_dnn_hidden_units=SMALL)),
    of("ESMM", deep(ESMM, FLAT, tower_dnn_hidden_units=SMALL)),
    of("MMOE", deep(MMOE, FLAT, expert_dnn_hidden_units=SMALL)),
    of("PLE", deep(PLE, FLAT, expert_dnn_hidden_units=SMALL)),
]
