"""RecBole: a model takes an `Interaction`; each adapter here has the columns as parameters and makes one of them.

Built over ml-100k, which the package ships, with the settings that RecBole has for each model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from entry import Inputs, Model, history, zipf
from torch import Tensor, nn

for _old, _new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    setattr(np, _old, _new)  # RecBole 1.2.1 asks for names that NumPy 2 removed

from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.utils import get_model

USERS, ITEMS, LENGTH = 944, 1683, 20
QUIET = {"use_gpu": False, "show_progress": False, "state": "ERROR", "MAX_ITEM_LIST_LENGTH": LENGTH, "seed": 0}
COLUMNS = {
    "user": ["user_id", "age", "gender", "occupation"],
    "item": ["item_id", "release_year", "class"],
    "inter": ["user_id", "item_id", "rating", "timestamp"],
}


class Pair(nn.Module):
    """How much a user likes an item."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, user_id: Tensor, item_id: Tensor) -> Any:
        """`[batch]`."""
        return self.model.predict(Interaction({"user_id": user_id, "item_id": item_id}))  # type: ignore[operator]


class Next(Pair):
    """How likely an item comes next."""

    def forward(self, user_id: Tensor, item_id_list: Tensor, item_length: Tensor, item_id: Tensor) -> Any:  # type: ignore[override]
        """`[batch]`."""
        columns = {"user_id": user_id, "item_id_list": item_id_list, "item_length": item_length, "item_id": item_id}
        return self.model.predict(Interaction(columns))  # type: ignore[operator]


class AllNext(Pair):
    """How likely every item comes next: the table is read as a whole."""

    def forward(self, item_id_list: Tensor, item_length: Tensor) -> Any:
        """`[batch, items]`."""
        columns = {"item_id_list": item_id_list, "item_length": item_length}
        return self.model.full_sort_predict(Interaction(columns))  # type: ignore[operator]


class Row(Pair):
    """The rate of clicks for all columns of an example."""

    def forward(self, columns: dict[str, Tensor]) -> Any:  # type: ignore[override]
        """`[batch]`."""
        return self.model.predict(Interaction(columns))  # type: ignore[operator]


@functools.cache
def dataset(kind: str, context: bool) -> Any:
    """ml-100k as RecBole reads it for a kind of model: the part for training."""
    return create_dataset(settings(kind, context)).build()[0]


def settings(kind: str, context: bool) -> Any:
    more: dict[str, Any] = {"load_col": COLUMNS, "threshold": {"rating": 4}} if context else {}
    return Config(model=kind, dataset="ml-100k", config_dict={**QUIET, "train_neg_sample_args": None, **more})


def build(adapter: type[Pair], kind: str, **more: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        config = settings(kind, adapter is Row)
        for key, value in more.items():
            config[key] = value
        return adapter(get_model(kind)(config, dataset(kind, adapter is Row)))

    return made


def pair(rows: int) -> Inputs:
    return {"user_id": zipf(USERS, rows, first=1), "item_id": zipf(ITEMS, rows, first=1)}


def all_next(rows: int) -> Inputs:
    past, lengths = history(ITEMS, rows, LENGTH)
    return {"item_id_list": past, "item_length": lengths}


def following(rows: int) -> Inputs:
    found = pair(rows)
    return {"user_id": found["user_id"], **all_next(rows), "item_id": found["item_id"]}


def row(rows: int) -> Inputs:
    ids = {"age": 62, "gender": 3, "occupation": 22, "release_year": 73}
    drawn = {name: zipf(size, rows, first=1) for name, size in ids.items()}
    return {"columns": {**pair(rows), **drawn, "class": history(20, rows, 6)[0]}}


def of(adapter: type[Pair], kind: str, **more: Any) -> Model:
    draw = {Pair: pair, Next: following, AllNext: all_next, Row: row}[adapter]
    name = f"{kind}, all items" if adapter is AllNext else kind
    return Model("recbole", name, build(adapter, kind, **more), draw)


MODELS = [
    *(of(Pair, kind) for kind in ("BPR", "NeuMF", "ConvNCF")),
    *(of(Next, kind) for kind in ("SASRec", "GRU4Rec", "NARM", "STAMP", "Caser", "BERT4Rec", "FPMC", "HGN", "NPE")),
    *(of(Next, kind) for kind in ("NextItNet", "LightSANs", "SRGNN", "SINE", "TransRec", "CORE", "DIN")),
    *(of(AllNext, kind) for kind in ("SASRec", "GRU4Rec", "STAMP", "BERT4Rec")),
    *(of(Row, kind) for kind in ("LR", "FM", "DeepFM", "NFM", "AFM", "DCN", "DCNV2", "xDeepFM", "AutoInt", "PNN")),
    *(of(Row, kind) for kind in ("WideDeep", "FNN", "FwFM", "FFM", "FiGNN", "EulerNet")),
]
