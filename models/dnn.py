"""DNN backbone: all rows side by side through an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig


class Dnn(nn.Module):
    """Concatenate, then hidden layers with ReLU and dropout, then a logit for each label."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, width = hidden_layers(input_width(config), config)
        self.layers = nn.Sequential(nn.Dropout(config.embedding_dropout), *hidden, nn.Linear(width, config.outputs))

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        """Logits `[B, T]` from rows `[B, F, D]` and normalised numbers `[B, N]` or None."""
        logits: Tensor = self.layers(side_by_side(rows, numeric))
        return logits


def input_width(config: ModelConfig) -> int:
    """F·D + N."""
    return len(config.embedded) * config.dim + len(config.numeric)


def side_by_side(rows: Tensor, numeric: Tensor | None) -> Tensor:
    """`[B, F, D]` and `[B, N]` to `[B, F·D + N]`."""
    flat = rows.flatten(1)
    return flat if numeric is None else torch.cat([flat, numeric], dim=1)


def hidden_layers(width: int, config: ModelConfig) -> tuple[list[nn.Module], int]:
    """Linear, ReLU and dropout for each of `config.hidden`; the layers and the last width."""
    layers: list[nn.Module] = []
    for out in config.hidden:
        layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(config.dropout)]
        width = out
    return layers, width
