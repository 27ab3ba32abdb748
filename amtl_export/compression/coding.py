"""A model with its rows in other bases, each id cut behind its dims."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amtl_export.compression.metric import Rows
from amtl_export.compression.trial import TrialEmbedding
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding
from amtl_export.principal.basis import Basis
from amtl_export.principal.dims import Dims
from amtl_export.scratch import scratch
from amtl_export.tables.values import NARROW

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Coded:
    """Tables whose fields are written in other bases.

    Attributes:
        tables: path → z, float32 `[V_total, D]`; rows of fields that have no basis are as they were.
        bases: table and first row of a field → its basis.
    """

    tables: Mapping[str, npt.NDArray[np.float32]]
    bases: Mapping[Rows, Basis]

    def numbers(self, rows: Rows, size: int) -> npt.NDArray[np.float32]:
        """z of a field, float32 `[V, D]`."""
        return self.tables[rows[0]][rows[1] : rows[1] + size]


def whole_model(frozen: FrozenModel, coded: Coded) -> FrozenModel:
    """The model with rows in other bases, nothing cut."""
    made = {}
    for path, numbers in coded.tables.items():
        table, D = frozen.tables[path], numbers.shape[1]
        cut = bool(((table.dims > 0) & (table.dims < D)).any())  # by a method; in another basis every number counts
        dims = torch.where(table.dims > 0, D, 0) if cut else table.dims
        made[path] = FrozenEmbedding(torch.from_numpy(numbers), dims, table.sizes, table.offsets, shared=True)
    return _with_bases(frozen, coded, made)


def trial_model(frozen: FrozenModel, coded: Coded, dims: Mapping[Rows, Dims]) -> FrozenModel:
    """The model cut, in tables as wide as their longest row, whose rows are cut when they are read: nothing is copied.

    Tables that share a basis are as wide as each other, so that products of their coordinates are those of rows.

    Args:
        frozen: with plain tables.
        coded: its tables in other bases.
        dims: table and first row of a field → `[V]`, its dims; other rows are as long as they were.
    """
    made: dict[str, FrozenEmbedding] = {}
    for path, width in _widths(frozen, coded, dims).items():
        table, kept = frozen.tables[path], torch.from_numpy(_dims(frozen.tables[path], path, coded, dims))
        made[path] = TrialEmbedding(torch.from_numpy(coded.tables[path])[:, :width], kept, table.sizes, table.offsets)
    return _with_bases(frozen, coded, made)


@torch.no_grad()
def cut_model(frozen: FrozenModel, coded: Coded, dims: Mapping[Rows, Dims]) -> FrozenModel:
    """The same with tables of its own, zero past dims."""
    made = {}
    for path, width in _widths(frozen, coded, dims).items():
        table, numbers = frozen.tables[path], torch.from_numpy(coded.tables[path])
        kept = torch.from_numpy(scratch((len(numbers),), np.int64))
        kept.copy_(torch.from_numpy(_dims(table, path, coded, dims)))
        rows = torch.from_numpy(scratch((len(numbers), width)))
        for out, part, own in zip(rows.split(_CHUNK), numbers.split(_CHUNK), kept.split(_CHUNK), strict=True):
            out.copy_(torch.where(torch.arange(width) < own.unsqueeze(1), part[:, :width], 0.0))
        made[path] = FrozenEmbedding(rows, kept, table.sizes, table.offsets, shared=True)
    return _with_bases(frozen, coded, made)


def _with_bases(frozen: FrozenModel, coded: Coded, tables: Mapping[str, FrozenEmbedding]) -> FrozenModel:
    """The model with coded tables, and all that is no table copied."""
    memo: dict[int, Any] = {id(table): table for table in frozen.tables.values()}
    memo |= {id(frozen.tables[path]): _coded(path, table, coded) for path, table in tables.items()}
    return replace(frozen.with_model(copy.deepcopy(frozen.module.model, memo)), trained=None)


def _coded(path: str, table: FrozenEmbedding, coded: Coded) -> CodedEmbedding:
    width, D = table.rows.shape[1], coded.tables[path].shape[1]
    bases: list[Tensor] = []
    known: dict[int, int] = {}
    basis_of: list[int] = []
    for offset in table.offsets:
        own = coded.bases.get((path, offset))
        key = 0 if own is None else id(own.decode)
        if key not in known:
            known[key] = len(bases)
            bases.append((torch.eye(D) if own is None else torch.from_numpy(own.decode.astype(np.float32)))[:width])
        basis_of.append(known[key])
    return CodedEmbedding(table, torch.stack(bases), basis_of)


def _widths(frozen: FrozenModel, coded: Coded, dims: Mapping[Rows, Dims]) -> dict[str, int]:
    """Path of each coded table → numbers of its longest row, and of those it shares a basis with."""
    alone = {path: _width(frozen.tables[path], path, coded, dims) for path in coded.tables}
    bases = {path: {id(own.decode) for (table, _), own in coded.bases.items() if table == path} for path in alone}
    return {path: max(alone[other] for other in alone if bases[other] & bases[path]) for path in alone}


def _width(table: FrozenEmbedding, path: str, coded: Coded, dims: Mapping[Rows, Dims]) -> int:
    """Numbers of the longest row, of the fields that are left as they are too; enough for every layout and type."""
    fields = zip(table.sizes, table.offsets, strict=True)
    longest = [int(_field_dims(table, (path, start), size, coded, dims).max(initial=0)) for size, start in fields]
    return max(min(NARROW, table.rows.shape[1]), *longest, 1)


def _dims(table: FrozenEmbedding, path: str, coded: Coded, dims: Mapping[Rows, Dims]) -> Dims:
    """`[V_total]`, in the type of `dims`."""
    (kind,) = {dims[rows].dtype for rows in dims if rows[0] == path}
    if len(table.offsets) == 1:
        return dims[path, table.offsets[0]]
    kept = np.zeros(len(table.dims), kind)
    for size, start in zip(table.sizes, table.offsets, strict=True):
        kept[start : start + size] = _field_dims(table, (path, start), size, coded, dims)
    return kept


def _field_dims(table: FrozenEmbedding, rows: Rows, size: int, coded: Coded, dims: Mapping[Rows, Dims]) -> Dims:
    """Those of a cut field; of one in another basis alone all that count there; of another as they are."""
    if rows in dims:
        return dims[rows]
    own: Dims = table.dims[rows[1] : rows[1] + size].numpy()
    return np.where(own > 0, table.rows.shape[1], 0) if rows in coded.bases else own
