"""A table of constants, and how modules of users read one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amtl_export.freezing.op import decode, lookup, places, whole_table


class FrozenEmbedding(nn.Module):
    """A table of constants; stands where an embedding method stood, or below a module that holds the table.

    Args:
        rows: float32 `[V_total, D]`, zero past `dims`.
        dims: int64 `[V_total]`, 0..D.
        sizes: V of each field.
        offsets: first row of each field.
        shared: whether the table may be `rows` itself, which nobody changes then; else it is a copy.

    Raises:
        ValueError: shapes do not fit, dims are out of range, or a row is not zero past its dims.
    """

    rows: Tensor
    dims: Tensor

    #: Sees what is looked up, and gives what is read instead: rows `[*ids, D]`, ids, the fields of their columns.
    tap: Callable[[Tensor, Tensor, Sequence[int]], Tensor] | None = None

    def __init__(
        self, rows: Tensor, dims: Tensor, sizes: Sequence[int], offsets: Sequence[int], *, shared: bool = False
    ) -> None:
        super().__init__()
        self.sizes, self.offsets = tuple(sizes), tuple(offsets)
        _check_table(rows, dims, self.sizes, self.offsets)
        self.register_buffer("rows", _plus_zeros(rows.detach(), shared))
        self.register_buffer("dims", dims.detach())

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`, any int64 ids."""
        sizes, offsets = ([values[f] for f in fields] for values in (self.sizes, self.offsets))
        rows: Tensor = lookup(self.rows, ids, sizes, offsets)
        return rows if self.tap is None else self.tap(rows, ids, fields)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `[*ids.shape, D]` of a table of one field."""
        if ids.ndim == 0:  # the operator's ids have an axis: that of the fields
            return self.forward(ids.reshape(1)).squeeze(0)
        rows: Tensor = lookup(self.rows, ids.long(), self.sizes, self.offsets)
        return rows if self.tap is None else self.tap(rows, ids, (0,))

    def whole(self) -> Tensor:
        """float32 `[V, D]`: what stands for the weight itself where a model reads that."""
        rows: Tensor = whole_table(self.rows)
        return rows

    def read(self, places: Tensor) -> Tensor:
        """Rows `[*places, D]` at places of the table, int64."""
        return self.rows[places]

    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`."""
        return self.rows

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`."""
        return self.dims


class ComputedEmbedding(FrozenEmbedding):
    """A table whose rows are computed when they are read; it answers, and is not exported.

    Args:
        rows: float32 `[V_total, D]`, what rows are computed from; or on the device `meta`, which tells the shape alone.
        dims: integers `[V_total]`.
        sizes: V of each field.
        offsets: first row of each field.
    """

    def __init__(self, rows: Tensor, dims: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.sizes, self.offsets = tuple(sizes), tuple(offsets)
        self.register_buffer("rows", rows)
        self.register_buffer("dims", dims)

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`, any int64 ids."""
        return self.read(places(ids, [self.sizes[f] for f in fields], [self.offsets[f] for f in fields]))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `[*ids.shape, D]` of a table of one field."""
        return self.read(places(ids.long(), self.sizes, self.offsets))

    def whole(self) -> Tensor:
        """float32 `[V, D]`."""
        return self.read(torch.arange(len(self.rows)))


class CodedEmbedding(nn.Module):
    """A table whose rows are written in another basis, e = z · basis; stands where a `FrozenEmbedding` stands.

    Args:
        coded: z, `[V_total, k]`.
        bases: float32 `[N, k, D]`.
        basis_of: the basis of each field of the table.

    Raises:
        ValueError: shapes do not fit.
    """

    bases: Tensor

    def __init__(self, coded: FrozenEmbedding, bases: Tensor, basis_of: Sequence[int]) -> None:
        super().__init__()
        self.coded, self.basis_of = coded, tuple(basis_of)
        self.sizes, self.offsets = coded.sizes, coded.offsets
        if bases.ndim != 3 or not all(0 <= own < len(bases) for own in self.basis_of):
            raise ValueError(f"bases {tuple(bases.shape)}, and fields that have {sorted(set(self.basis_of))}")
        if bases.shape[1] != coded.rows.shape[1] or len(self.basis_of) != len(self.sizes):
            raise ValueError(
                f"bases {tuple(bases.shape)} of {len(self.basis_of)} fields, rows {tuple(coded.rows.shape)}"
            )
        self.register_buffer("bases", bases.detach())

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids `[B, K]` as `[B, K, D]`, any int64 ids."""
        rows: Tensor = decode(self.coded.lookup(ids, fields), self.bases, [self.basis_of[f] for f in fields])
        return rows

    def forward(self, ids: Tensor) -> Tensor:
        """Rows `[*ids.shape, D]` of a table of one field."""
        if ids.ndim == 0:
            return self.forward(ids.reshape(1)).squeeze(0)
        rows: Tensor = decode(self.coded(ids), self.bases, self.basis_of)
        return rows

    def whole(self) -> Tensor:
        """float32 `[V, D]` of a table of one field."""
        rows: Tensor = decode(self.coded.whole(), self.bases, self.basis_of)
        return rows

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`."""
        return self.coded.dims


#: Rows of a table that are worked on at a time.
_CHUNK = 1 << 16


def _plus_zeros(rows: Tensor, shared: bool) -> Tensor:
    """Every zero +0, never -0: layouts store one zero for all past dims, and may add zeros to a row."""
    if shared and not any(bool(((part == 0) & part.signbit()).any()) for part in rows.split(_CHUNK)):
        return rows
    made = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    for part, chunk in zip(made.split(_CHUNK), rows.split(_CHUNK), strict=True):
        part.copy_(torch.where(chunk != 0, chunk, 0.0))
    return made


def _check_table(rows: Tensor, dims: Tensor, sizes: Sequence[int], offsets: Sequence[int]) -> None:
    if rows.ndim != 2 or rows.dtype != torch.float32 or dims.dtype != torch.int64:
        raise ValueError(f"rows {rows.dtype} {tuple(rows.shape)} and dims {dims.dtype}: float32 [V, D] and int64 [V]")
    V, D = rows.shape
    needed = max((size + offset for size, offset in zip(sizes, offsets, strict=True)), default=0)
    if needed != V or dims.shape != (V,):
        raise ValueError(f"{V} rows and {len(dims)} dims for fields of {needed} ids")
    if V and (int(dims.min()) < 0 or int(dims.max()) > D):
        raise ValueError(f"dims must be within 0..{D}, got {int(dims.min())}..{int(dims.max())}")
    for start in range(0, V, _CHUNK):
        part = slice(start, start + _CHUNK)
        past = torch.arange(D, device=rows.device) >= dims[part].unsqueeze(1)
        wrong = ((rows[part] != 0) & past).any(dim=1)
        if wrong.any():
            row = start + int(wrong.int().argmax())
            raise ValueError(f"row {row} is not zero past its {int(dims[row])} dims")
