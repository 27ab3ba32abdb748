"""DCN-V2 backbone (Wang et al., WWW 2021): explicit crosses of the input beside an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.dnn import hidden_layers, input_width, side_by_side


class DcnV2(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, in parallel to a DNN; both meet in one linear layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = input_width(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        hidden, deep_width = hidden_layers(width, config)
        self.deep = nn.Sequential(*hidden)
        self.out = nn.Linear(width + deep_width, config.outputs)

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        """Logits `[B, T]` from rows `[B, F, D]` and normalised numbers `[B, N]` or None."""
        x0 = self.dropout(side_by_side(rows, numeric))  # [B, F·D + N]
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        logits: Tensor = self.out(torch.cat([x, self.deep(x0)], dim=1))
        return logits
