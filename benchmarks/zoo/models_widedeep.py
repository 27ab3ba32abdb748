"""pytorch-widedeep: `WideDeep` takes a dict of parts, each one matrix whose columns are known by place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from entry import Inputs, Model, history, zipf
from torch import Tensor, nn

# The library imports torchvision at once. Beside the CPU build of torch, torchvision's wheel from PyPI cannot load its
# own operators, and its import fails on these two; no model here calls them.
_operators = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from pytorch_widedeep.models import (
    SAINT,
    BasicRNN,
    ContextAttentionMLP,
    FTTransformer,
    SelfAttentionMLP,
    TabFastFormer,
    TabMlp,
    TabNet,
    TabPerceiver,
    TabResnet,
    TabTransformer,
    Wide,
    WideDeep,
)
from pytorch_widedeep.models.rec import (
    AutoInt,
    AutoIntPlus,
    DeepCrossNetwork,
    DeepFactorizationMachine,
    DeepInterestNetwork,
    ExtremeDeepFactorizationMachine,
    GatedDeepCrossNetwork,
)

SIZES = {"user": 4000, "item": 6000, "category": 300}
NUMBERS, D, LENGTH = ["price", "age"], 16, 8
PLACES = {name: place for place, name in enumerate([*SIZES, *NUMBERS])}
SIZED = [(name, size, D) for name, size in SIZES.items()]  # a table has one row more: 0 is for unseen values
PLAIN = list(SIZES.items())
VISITS = [f"visit_{step}" for step in range(LENGTH)]
VISIT_PLACES = {name: place for place, name in enumerate(["user", "target_item", *VISITS])}
WORDS = 3000


def ids(rows: int) -> Tensor:
    return torch.stack([zipf(size + 1, rows) for size in SIZES.values()], 1)


def matrix(rows: int) -> Tensor:
    return torch.cat([ids(rows).float(), torch.rand(rows, len(NUMBERS))], 1)


def tabular(rows: int) -> Inputs:
    return {"X": {"deeptabular": matrix(rows)}}


def wide_too(rows: int) -> Inputs:
    found = matrix(rows)
    starts = torch.tensor([1, SIZES["user"] + 1, SIZES["user"] + SIZES["item"] + 1])
    return {"X": {"wide": found[:, :3].long() + starts - 1, "deeptabular": found}}


def visits(rows: int) -> Inputs:
    past, _ = history(SIZES["item"], rows, LENGTH)
    parts = [zipf(SIZES["user"] + 1, rows, 1), zipf(SIZES["item"], rows, 1, first=1), past]
    return {"X": {"deeptabular": torch.cat(parts, 1).float()}}


def text(rows: int) -> Inputs:
    return {"X": {"deeptabular": matrix(rows), "deeptext": history(WORDS, rows, 12)[0]}}


def deep(kind: Any, name: str, *, sized: Any = False, numbers: Any = True, **more: Any) -> Model:
    """A `WideDeep` of one tabular part."""
    continuous = {"continuous_cols": NUMBERS} if numbers else {}

    def build() -> nn.Module:
        part = kind(column_idx=PLACES, cat_embed_input=SIZED if sized else PLAIN, **continuous, **more)
        made: nn.Module = WideDeep(deeptabular=part)
        return made

    return Model("pytorch-widedeep", name, build, tabular)


def wide_deep() -> nn.Module:
    part = TabMlp(PLACES, cat_embed_input=SIZED, continuous_cols=NUMBERS, mlp_hidden_dims=[64, 32])
    made: nn.Module = WideDeep(wide=Wide(sum(SIZES.values()) + 3), deeptabular=part)
    return made


def with_text() -> nn.Module:
    part = TabMlp(PLACES, cat_embed_input=SIZED, continuous_cols=NUMBERS, mlp_hidden_dims=[64, 32])
    words = BasicRNN(WORDS, D, hidden_dim=16, n_layers=1, padding_idx=0)
    made: nn.Module = WideDeep(deeptabular=part, deeptext=words)
    return made


def interest() -> nn.Module:
    part = DeepInterestNetwork(
        column_idx=VISIT_PLACES,
        user_behavior_confiq=(VISITS, SIZES["item"], D),
        target_item_col="target_item",
        cat_embed_input=[("user", SIZES["user"], D)],
        mlp_hidden_dims=[64, 32],
    )
    made: nn.Module = WideDeep(deeptabular=part)
    return made


def of(name: str, build: Callable[[], nn.Module], batch: Callable[[int], Inputs]) -> Model:
    return Model("pytorch-widedeep", name, build, batch)


MLP = {"mlp_hidden_dims": [64, 32]}
HEADS = {"input_dim": D, "n_heads": 2, "n_blocks": 2}
MODELS = [
    of("Wide and TabMlp", wide_deep, wide_too),
    deep(TabMlp, "TabMlp", sized=True, **MLP),
    deep(TabResnet, "TabResnet", sized=True, blocks_dims=[64, 32]),
    deep(TabNet, "TabNet", sized=True, n_steps=2),
    deep(ContextAttentionMLP, "ContextAttentionMLP", input_dim=D, n_blocks=2),
    deep(SelfAttentionMLP, "SelfAttentionMLP", **HEADS),
    deep(TabTransformer, "TabTransformer", **HEADS),
    deep(SAINT, "SAINT", **HEADS),
    deep(FTTransformer, "FTTransformer", **HEADS),
    deep(TabFastFormer, "TabFastFormer", **HEADS),
    deep(TabPerceiver, "TabPerceiver", input_dim=D, n_latents=4, latent_dim=16, n_perceiver_blocks=1),
    deep(DeepFactorizationMachine, "DeepFM", num_factors=D, **MLP),
    deep(ExtremeDeepFactorizationMachine, "xDeepFM", input_dim=D, cin_layer_dims=[16, 16], **MLP),
    deep(DeepCrossNetwork, "DCN", sized=True, **MLP),
    deep(GatedDeepCrossNetwork, "GDCN", sized=True, **MLP),
    deep(AutoInt, "AutoInt", input_dim=D, numbers=False),
    deep(AutoIntPlus, "AutoInt+", input_dim=D, embed_continuous_method="standard", **MLP),
    of("DIN", interest, visits),
    of("TabMlp and BasicRNN", with_text, text),
]
