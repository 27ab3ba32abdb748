"""DIN's local activation unit (Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Hidden width of the activation unit, the paper's.
HIDDEN = 36


class AttentionUnit(nn.Module):
    """Adds up a behaviour sequence's rows, each times a weight that depends on it and the candidate.

        w_i = MLP([e_i, e_c, e_i - e_c, e_i * e_c]),  pooled = sum over i of w_i e_i

    The weights are not normalised, so that their sum says how strong the interest is; padding weighs nothing.
    The MLP has one hidden layer with ReLU, where the paper has PReLU or Dice.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Sequential(nn.Linear(4 * dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, rows: Tensor, candidate: Tensor, present: Tensor) -> Tensor:
        """`[B, D]` from the sequence `[B, L, D]`, the candidate's row `[B, D]` and where it has values, `[B, L]`."""
        other = candidate.unsqueeze(1).expand_as(rows)
        weight = self.weight(torch.cat([rows, other, rows - other, rows * other], dim=-1)).squeeze(-1)  # [B, L]
        return (torch.where(present, weight, 0.0).unsqueeze(1) @ rows).squeeze(1)
