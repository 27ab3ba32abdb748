"""The table under every embedding method: one matrix for all fields, ids shifted by field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.models.config import EmbeddedField

#: Rows of a whole table that are worked on at a time.
_CHUNK = 1 << 18

#: Rank and number of the processes that hold the rows of new tables between them.
_HOLDERS: ContextVar[tuple[int, int]] = ContextVar("holders", default=(0, 1))


@contextmanager
def rows_of(rank: int, size: int) -> Iterator[None]:
    """Tables that are made inside the block hold the rows of one process of several, which are neighbours."""
    token = _HOLDERS.set((rank, size))
    try:
        yield
    finally:
        _HOLDERS.reset(token)


def zero_past(rows: Tensor, dims: Tensor) -> Tensor:
    """A copy of rows `[V, D]` that is zero past dims `[V]`."""
    made, columns = torch.empty_like(rows), torch.arange(rows.shape[1], device=rows.device)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        made[part] = torch.where(columns < dims[part].unsqueeze(1), rows[part], 0.0)
    return made


class FieldTable(nn.Module):
    """Rows of all fields in one `[V_total, D]` parameter.

    Initialised normal with std 0.04/sqrt(D) (0.01 at D = 16), small against the logit; rows of ids that
    training never sees (count 0) start and stay zero, which is neutral; so do padding rows, and what a row has beyond
    its field's dim.

    Args:
        fields: in table order; one that shares another's rows adds none.
        dim: floats of a row.
        counts: field → int64 `[V]`, training occurrences.
        sparse: whether the gradient is sparse.

    Attributes:
        held: the rows that `weight` is: all of them, but inside `rows_of`.
        fetch: gives rows `[*ids.shape, D]` of a whole table, of which `weight` is a part; None where it is all.
    """

    def __init__(
        self, fields: Sequence[EmbeddedField], dim: int, counts: Sequence[Tensor], sparse: bool = False
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.sizes = tuple(field.size for field in fields)
        owned = [0 if field.shares else field.size for field in fields]
        starts = dict(zip((field.name for field in fields), accumulate((0, *owned[:-1])), strict=True))
        self.offsets = tuple(starts[field.shares or field.name] for field in fields)
        self.rows = sum(owned)
        self.dim = dim
        given = {field.name: min(field.dim or dim, dim) for field in fields}
        self.widths = tuple(given[field.shares or field.name] for field in fields)
        self.sparse = sparse
        for field, count in zip(fields, counts, strict=True):
            if count.shape != (field.size,):
                raise ValueError(f"field {field.name}: {tuple(count.shape)} counts for {field.size} ids")
        owned_counts = [count for field, count in zip(fields, counts, strict=True) if field.shares is None]
        seen = torch.cat(owned_counts) > 0
        for field, offset in zip(self.fields, self.offsets, strict=True):
            if field.padding is not None:
                seen[offset + field.padding] = False
        rank, size = _HOLDERS.get()
        self.held = slice(self.rows * rank // size, self.rows * (rank + 1) // size)
        self.fetch: Callable[[Tensor], Tensor] | None = None
        drawn = _drawn(self.rows, dim, self.held).mul_(0.04 / dim**0.5)
        kept = drawn.masked_fill_(~seen[self.held].unsqueeze(1), 0.0)  # +0: a product would leave -0
        self.weight = nn.Parameter(self.cut_(kept))

    def cut_(self, rows: Tensor) -> Tensor:
        """Set what the held rows `[V_held, D]` have beyond their fields' dims to zero, in place."""
        for size, offset, width in zip(self.sizes, self.offsets, self.widths, strict=True):
            first, past = (max(0, row - self.held.start) for row in (offset, offset + size))
            rows[first:past, width:] = 0
        return rows

    def shift(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Table rows of ids `[B, K]` whose columns belong to `fields` (one for all, or K)."""
        if len(fields) == 1:
            return ids + self.offsets[fields[0]]
        return ids + torch.tensor([self.offsets[f] for f in fields], device=ids.device)

    def take(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Unmasked rows of ids, `[B, K, D]`; padding rows are zero and learn nothing."""
        rows = self._rows(self.shift(ids, fields), self._padding(fields))
        if all(self.widths[field] == self.dim for field in fields):
            return rows
        width = torch.tensor([self.widths[field] for field in fields], device=ids.device).unsqueeze(1)
        return torch.where(torch.arange(self.dim, device=ids.device) < width, rows, 0.0)  # no gradient beyond, either

    def take_each(self, ids: Sequence[Tensor], fields: Sequence[int]) -> Tensor:
        """Unmasked rows of ids `[U]` of each field, those of one field after those of another, `[sum of U, D]`.

        What a row has beyond its field's dim is zero, and is for the caller to keep from learning.
        """
        shifted = [own + self.offsets[field] for own, field in zip(ids, fields, strict=True)]
        return self._rows(torch.cat(shifted), self._padding(fields))

    def _padding(self, fields: Sequence[int]) -> int | None:
        """The padding row of a field that is looked up alone."""
        padding = self.fields[fields[0]].padding if len(fields) == 1 else None
        return None if padding is None else padding + self.offsets[fields[0]]

    def _rows(self, ids: Tensor, padding: int | None) -> Tensor:
        if self.fetch is None:
            return F.embedding(ids, self.weight, padding_idx=padding, sparse=self.sparse)
        rows = self.fetch(ids)
        return rows if padding is None else torch.where((ids == padding).unsqueeze(-1), 0.0, rows)

    def part(self, values: Tensor, field: int) -> Tensor:
        """The slice of a per-row tensor that belongs to one field."""
        return values[self.offsets[field] : self.offsets[field] + self.sizes[field]]

    def full_dims(self) -> Tensor:
        """int64 `[V_total]`: D, or the field's dim, for every row, 0 for padding rows."""
        dims = torch.full((self.rows,), self.dim, dtype=torch.int64, device=self.weight.device)
        for index, field in enumerate(self.fields):
            self.part(dims, index).clamp_(max=self.widths[index])
            if field.padding is not None:
                dims[self.offsets[index] + field.padding] = 0
        return dims


def _drawn(count: int, dim: int, held: slice) -> Tensor:
    """The rows `held` of `torch.randn(count, dim)`, without the others in memory.

    PyTorch draws 16 numbers at a time where there are 16 or more, so that chunks are drawn as the whole is.
    """
    if held == slice(0, count):
        return torch.randn(count, dim)
    kept = torch.empty(held.stop - held.start, dim)
    for start in range(0, count, _CHUNK):
        if count - start < 16 and start:
            break  # drawn with the chunk before
        stop = count if count - start - _CHUNK < 16 else start + _CHUNK
        drawn = torch.randn(stop - start, dim)
        first, past = max(start, held.start), min(stop, held.stop)
        if first < past:
            kept[first - held.start : past - held.start] = drawn[first - start : past - start]
    return kept
