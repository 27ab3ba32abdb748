"""DeepFM backbone (Guo et al., IJCAI 2017): pairwise products of rows beside an MLP."""

from __future__ import annotations

from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.dnn import Dnn


class DeepFm(nn.Module):
    """FM's second-order term, in the logit of every label, plus a DNN over the same rows.

    The first-order term is the model's wide part.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.deep = Dnn(config)

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        """Logits `[B, T]` from rows `[B, F, D]` and normalised numbers `[B, N]` or None."""
        logits: Tensor = self.deep(rows, numeric) + pairwise_products(rows)
        return logits


def pairwise_products(rows: Tensor) -> Tensor:
    """Sum over i < j of <e_i, e_j>, as half of (sum e)² - sum e² (Rendle 2010, lemma 3.1): `[B, 1]`."""
    total = rows.sum(dim=1)  # [B, D]
    return 0.5 * (total.square() - rows.square().sum(dim=1)).sum(dim=1, keepdim=True)
