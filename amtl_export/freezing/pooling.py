"""What `nn.EmbeddingBag` does, in operators that graphs have: a sum or mean over each bag of rows."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(
    rows: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    *,
    mode: str,
    padding: int | None,
    include_last_offset: bool = False,
) -> Tensor:
    """Bags of rows, `[B, D]`, as `torch.nn.functional.embedding_bag` has them.

    Args:
        rows: float32 `[*ids.shape, D]`.
        ids: `[B, L]`, or `[N]` with offsets.
        offsets: `[B]`, where each bag begins in `ids`; `[B + 1]` with `include_last_offset`.
        weights: of every id, in the shape of `ids`; with `sum` alone.
        mode: sum or mean.
        padding: id that no bag counts; None for none.
        include_last_offset: whether the last offset is the end of the last bag.
    """
    present = None if padding is None else torch.ne(ids, padding)
    if weights is not None:
        rows = rows * weights.unsqueeze(-1)
    if present is not None:
        rows = torch.where(present.unsqueeze(-1), rows, 0.0)
    counted = rows.new_ones(ids.shape) if present is None else present.to(rows.dtype)
    if offsets is None:
        total, count = rows.sum(dim=1), counted.sum(dim=1)
    else:
        bag = _bag_of_each(ids, offsets)
        total = rows.new_zeros(offsets.shape[0], rows.shape[-1]).index_add(0, bag, rows)
        count = rows.new_zeros(offsets.shape[0]).index_add(0, bag, counted)
        if include_last_offset:  # the last bag is what lies behind the end of the others
            # PyTorch leaves the ids behind the end out of the sum, and yet divides the last mean by them too.
            total, count = total[:-1], torch.cat([count[:-2], count[-2:].sum(0, keepdim=True)])
    return total if mode == "sum" else total / count.clamp(min=1).unsqueeze(-1)


def _bag_of_each(ids: Tensor, starts: Tensor) -> Tensor:
    """int64 `[N]`: the bag that each id is in; bags may be empty.

    A bag's number is how many bags have begun at or before an id, less one.
    """
    marks = ids.new_zeros(ids.shape[0] + 1, dtype=torch.int64)
    begun = marks.index_add(0, starts.long(), torch.ones_like(starts, dtype=torch.int64))
    return begun.cumsum(0)[:-1] - 1
