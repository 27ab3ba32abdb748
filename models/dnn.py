"""DNN backbone: all rows side by side through a perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig


class Dnn(nn.Module):
    """Concatenate, then hidden layers with ReLU and dropout, then one logit."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = len(config.embedded) * config.dim + len(config.numeric)
        layers: list[nn.Module] = [nn.Dropout(config.embedding_dropout)]
        for out in config.hidden:
            layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(config.dropout)]
            width = out
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        """Logits `[B]` from rows `[B, F, D]` and normalised numbers `[B, N]` or None."""
        x = rows.flatten(1)  # [B, F·D]
        if numeric is not None:
            x = torch.cat([x, numeric], dim=1)  # [B, F·D + N]
        logit: Tensor = self.layers(x).squeeze(-1)
        return logit
