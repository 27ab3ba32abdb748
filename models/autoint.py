"""AutoInt backbone (Song et al., CIKM 2019): self-attention between fields beside an MLP."""

from __future__ import annotations

from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.dnn import Dnn


class Interaction(nn.Module):
    """One interacting layer: softmax(Q Kᵀ) V for each head, plus a projection of its input, then ReLU.

    Args:
        width: of its input rows.
        heads: attention heads.
        head_width: of each head's output.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        out = heads * head_width
        self.query, self.key, self.value, self.residual = (nn.Linear(width, out, bias=False) for _ in range(4))

    def forward(self, rows: Tensor) -> Tensor:
        """`[B, F, width]` to `[B, F, heads·head_width]`."""
        q, k, v = (self._split(part(rows)) for part in (self.query, self.key, self.value))  # [B, H, F, d]
        weight = (q @ k.transpose(2, 3)).softmax(dim=-1)  # [B, H, F, F]
        mixed = (weight @ v).transpose(1, 2).flatten(2)  # [B, F, H·d]
        out: Tensor = nn.functional.relu(mixed + self.residual(rows))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)
        return heads


class AutoInt(nn.Module):
    """Interacting layers over the fields' rows, plus a DNN over the same rows (AutoInt+)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, head_width = config.attention_heads, config.attention_width
        widths = [config.dim] + [heads * head_width] * config.attention_layers
        layers = [Interaction(width, heads, head_width) for width in widths[:-1]]
        self.interactions = nn.Sequential(nn.Dropout(config.embedding_dropout), *layers)
        self.out = nn.Linear(len(config.embedded) * widths[-1], config.outputs)
        self.deep = Dnn(config)

    def forward(self, rows: Tensor, numeric: Tensor | None) -> Tensor:
        """Logits `[B, T]` from rows `[B, F, D]` and normalised numbers `[B, N]` or None."""
        logits: Tensor = self.out(self.interactions(rows).flatten(1)) + self.deep(rows, numeric)
        return logits
