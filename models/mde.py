"""MDE: mixed dimensions (Ginart et al., "Mixed Dimension Embeddings with Application to Memory-Efficient
Recommendation Systems", 2019): dims by popularity, fixed before training, and a projection up to D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from amtl_export.models.config import ModelConfig
from amtl_export.models.cut import CutEmbedding


@dataclass(frozen=True)
class Block:
    """Ids `[start, end)` of one field in `popularity_order`, all of `width` dims."""

    start: int
    end: int
    width: int

    @property
    def size(self) -> int:
        """n."""
        return self.end - self.start


#: Ids that come before those of values: out of vocabulary, and missing.
_RESERVED = 2


def popularity_order(counts: Tensor) -> Tensor:
    """int64 `[V]`: the reserved ids, then the others by falling count, ties by id.

    That is 0..V-1 unless the field has another's vocabulary, whose ids fall in the count of both.
    """
    values = torch.argsort(counts[_RESERVED:], descending=True, stable=True) + _RESERVED
    return torch.cat([torch.arange(min(_RESERVED, len(counts))), values.cpu()])


def frequency_blocks(counts: Tensor, number: int) -> list[tuple[int, int]]:
    """Cut a field's ids, in the order of popularity, into at most `number` blocks of about equal occurrences.

    Args:
        counts: int64 `[V]`, falling from the first value on; reserved ids come first.
        number: how many blocks.

    Returns:
        `[start, end)` of each, the most frequent first, together 0..V.
    """
    total = counts.double().cumsum(0)
    shares = total[-1] * torch.arange(1, number, dtype=torch.float64) / number
    cuts = torch.searchsorted(total, shares) + 1  # the id that fills a share still belongs to it
    inner = sorted({int(cut) for cut in cuts if 0 < int(cut) < len(counts)})
    return list(pairwise([0, *inner, len(counts)]))


def block_widths(sizes: Sequence[int], D: int, alpha: float, ratio: float | None) -> list[int]:
    """The popularity rule d = lambda·n^(-alpha), n the rows of a block, within 1..D.

    A block that D-wide rows would make no larger, n·D <= n·d + d·D with its projection, gets D and needs none.

    Args:
        sizes: n of every block of all fields.
        D: floats of a full row.
        alpha: 0 gives every block the same dims, larger values favour small blocks.
        ratio: lambda is the largest that keeps the mean dims, weighted by rows, at or below ratio·D;
            None: lambda gives the smallest block D.
    """

    def widths(scale: float) -> list[int]:
        widths = [min(D, max(1, int(scale * n**-alpha + 1e-9))) for n in sizes]
        return [D if n * (D - d) <= d * D else d for n, d in zip(sizes, widths, strict=True)]

    def rows_times_dims(scale: float) -> int:
        return sum(n * d for n, d in zip(sizes, widths(scale), strict=True))

    if ratio is None:
        return widths(D * min(sizes) ** alpha)
    allowed = ratio * D * sum(sizes)
    low, high = 0.0, D * float(max(sizes)) ** alpha + 1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rows_times_dims(middle) <= allowed else (low, middle)
    return widths(low)


def field_blocks(config: ModelConfig, counts: Sequence[Tensor]) -> dict[int, list[Block]]:
    """Position of every governed field → its blocks."""
    ranges = {
        position: frequency_blocks(count[popularity_order(count)], config.mixed.blocks)
        for position, (field, count) in enumerate(zip(config.embedded, counts, strict=True))
        if field.governed and field.shares is None
    }
    sizes = [end - start for spans in ranges.values() for start, end in spans]
    if not sizes:
        return {}
    widths = iter(block_widths(sizes, config.dim, config.mixed.alpha, config.mixed.ratio))
    return {position: [Block(start, end, next(widths)) for start, end in spans] for position, spans in ranges.items()}


class MixedEmbedding(nn.Module):
    """e P_b for an id of block b, e its first d_b numbers; e itself where d_b = D.

    The rows are an ordinary table cut to the blocks' dims (`rows`, which freezing replaces); the projections
    of a field lie on top of each other, `[sum of d_b, D]`, and stay in the served model.

    Args:
        config: of the model; `config.mixed` has the rule.
        counts: per embedded field, int64 `[V]` training occurrences.
    """

    def __init__(self, config: ModelConfig, counts: Sequence[Tensor]) -> None:
        super().__init__()
        self.rows = CutEmbedding(config, counts)
        self.sizes, self.offsets = self.rows.sizes, self.rows.offsets
        self.blocks = field_blocks(config, counts)
        self._owners = config.owners
        self.projections = nn.ParameterDict()
        for position, blocks in self.blocks.items():
            kept = self.rows.table.part(self.rows.kept, position)
            padding = kept == 0
            order = popularity_order(counts[position])
            for block in blocks:
                kept[order[block.start : block.end]] = block.width
            kept[padding] = 0
            narrow = [block.width for block in blocks if block.width < config.dim]
            if narrow and not torch.equal(order, torch.arange(len(order))):
                self.register_buffer(f"places_{position}", torch.argsort(order), persistent=False)
            if narrow:
                # Entries of variance 1 / d_b: a projected row is as large as an unprojected one.
                drawn = [torch.randn(width, config.dim) / width**0.5 for width in narrow]
                self.projections[str(position)] = nn.Parameter(torch.cat(drawn))

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`; an id outside its field is treated as its id 0."""
        rows = self.rows.lookup(ids, fields)
        if len(fields) == 1:
            return self._projected(rows, ids, fields[0])
        pieces, done = [], 0
        for column, field in enumerate(fields):
            if self._projection(field) is not None:
                here = slice(column, column + 1)
                pieces += [rows[:, done:column], self._projected(rows[:, here], ids[:, here], field)]
                done = column + 1
        pieces.append(rows[:, done:])
        return torch.cat([piece for piece in pieces if piece.shape[1]], dim=1)

    def _projection(self, field: int) -> Tensor | None:
        name = str(self._owners[field])
        projection: Tensor | None = self.projections.get(name, None)
        return projection

    def _projected(self, rows: Tensor, ids: Tensor, field: int) -> Tensor:
        """`[B, K, D]` rows of one field, each through the projection of its block."""
        projection = self._projection(field)
        if projection is None:
            return rows
        blocks = self.blocks[self._owners[field]]
        starts = torch.tensor([block.start for block in blocks[1:]], dtype=torch.int64, device=ids.device)
        inside = ids < self.sizes[field]
        if (places := getattr(self, f"places_{self._owners[field]}", None)) is not None:
            known = torch.where(inside & (ids >= 0), ids, 0)
            ids = places.index_select(0, known.reshape(-1)).reshape(ids.shape)
        place = ((ids.unsqueeze(-1) >= starts) & inside.unsqueeze(-1)).sum(dim=-1, keepdim=True)  # [B, K, 1]
        D = rows.shape[-1]
        narrow = [(number, block.width) for number, block in enumerate(blocks) if block.width < D]
        spread = torch.cat([torch.where(place == number, rows[..., :width], 0.0) for number, width in narrow], dim=-1)
        first = narrow[0][0]  # blocks of D dims come first
        projected = spread @ projection
        return projected if first == 0 else torch.where(place >= first, projected, rows)

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`: d_b of every id's block, D for fields that are not governed, 0 for padding."""
        return self.rows.frozen_dims()
