"""The one lookup operator: `amtl::lookup`, what a frozen table does in PyTorch.

Exporting translates it to the nodes of the chosen layout; running it in PyTorch is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("amtl::lookup", mutates_args=())
def lookup(rows: Tensor, ids: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:
    """Rows of ids, out-of-range ids reading their field's out-of-vocabulary row (id 0).

    Args:
        rows: float32 `[V_total, D]`.
        ids: int64 `[B, K]`, any values.
        sizes: V of each column's field; one number serves all columns.
        offsets: first row of each column's field; likewise.

    Returns:
        float32 `[B, K, D]`.
    """
    size, offset = (torch.tensor(list(values), device=ids.device) for values in (sizes, offsets))
    known = (ids >= 0) & (ids < size)
    return rows[torch.where(known, ids, 0) + offset]


@lookup.register_fake
def _(rows: Tensor, ids: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:  # noqa: ARG001 - torch fixes it
    return rows.new_empty((*ids.shape, rows.shape[1]))
