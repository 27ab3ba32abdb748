"""The operators of a frozen table: `amtl::lookup`, its rows of ids, `amtl::whole_table`, all of them, and
`amtl::decode`, which brings rows that are written in another basis back.

Exporting translates them to the nodes of the chosen layout; running them in PyTorch is the reference.
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
        ids: int64 `[…, K]`, any values.
        sizes: V of each column's field; one number serves all columns.
        offsets: first row of each column's field; likewise.

    Returns:
        float32 `[…, K, D]`.
    """
    return rows[places(ids, sizes, offsets)]


def places(ids: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:
    """Rows of a table that ids are looked up in, int64 of their shape; arguments as for `lookup`."""
    size, offset = (torch.tensor(list(values), device=ids.device) for values in (sizes, offsets))
    if len(sizes) == 1:
        size, offset = size[0], offset[0]
    known = (ids >= 0) & (ids < size)
    return torch.where(known, ids, 0) + offset


@lookup.register_fake
def _(rows: Tensor, ids: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> Tensor:  # noqa: ARG001 - torch fixes it
    return rows.new_empty((*ids.shape, rows.shape[1]))


@torch.library.custom_op("amtl::whole_table", mutates_args=())
def whole_table(rows: Tensor) -> Tensor:
    """float32 `[V, D]`: every row, where a model reads the weight itself (a tied output layer, for instance)."""
    return rows.clone()


@whole_table.register_fake
def _(rows: Tensor) -> Tensor:
    return rows.new_empty(rows.shape)


@torch.library.custom_op("amtl::decode", mutates_args=())
def decode(coordinates: Tensor, bases: Tensor, fields: Sequence[int]) -> Tensor:
    """e = z · basis of each column.

    Args:
        coordinates: z, float32 `[…, K, k]`.
        bases: float32 `[N, k, D]`.
        fields: the basis of each column; one number serves all columns.

    Returns:
        float32 `[…, K, D]`.
    """
    if len(fields) == 1:
        return coordinates @ bases[fields[0]]
    return torch.einsum("...ck,ckd->...cd", coordinates, bases[list(fields)])


@decode.register_fake
def _(coordinates: Tensor, bases: Tensor, fields: Sequence[int]) -> Tensor:  # noqa: ARG001 - torch fixes it
    return coordinates.new_empty((*coordinates.shape[:-1], bases.shape[2]))
