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
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding
from amtl_export.principal.basis import Basis
from amtl_export.principal.dims import Dims
from amtl_export.tables.values import NARROW


@dataclass(frozen=True)
class CodedRows:
    """The rows of a field in another basis.

    Attributes:
        basis: which.
        numbers: float32 `[V, D]`, z.
    """

    basis: Basis
    numbers: npt.NDArray[np.float32]


def coded_model(frozen: FrozenModel, rows: Mapping[Rows, CodedRows], dims: Mapping[Rows, Dims]) -> FrozenModel:
    """The model with some fields' rows in other bases, zero past their dims, in a table as wide as the longest.

    Tables that share a basis are as wide as each other, so that products of their coordinates are those of rows.

    Args:
        frozen: with plain tables.
        rows: table and first row of a field → its rows.
        dims: the same → int64 `[V]`, its dims.
    """
    tables = frozen.tables
    chosen = {path: {own: rows[own] for own in rows if own[0] == path} for path in tables}
    alone = {path: _width(tables[path], chosen[path], dims) for path in tables if chosen[path]}
    bases = {path: {id(own.basis.decode) for own in chosen[path].values()} for path in alone}
    widths = {path: max(alone[other] for other in alone if bases[other] & bases[path]) for path in alone}
    memo: dict[int, Any] = {}
    for path, width in widths.items():
        memo[id(tables[path])] = _coded(path, tables[path], chosen[path], dims, width)
    return replace(frozen.with_model(copy.deepcopy(frozen.module.model, memo)), trained=None)


def _width(table: FrozenEmbedding, rows: Mapping[Rows, CodedRows], dims: Mapping[Rows, Dims]) -> int:
    """Numbers of the longest row, of the fields that are left as they are too; enough for every layout and type."""
    longest = table.dims.clone()
    for path, offset in rows:
        longest[offset : offset + len(dims[path, offset])] = torch.from_numpy(dims[path, offset])
    return max(min(NARROW, table.rows.shape[1]), int(longest.max()) if len(longest) else 1)


def _coded(
    path: str, table: FrozenEmbedding, rows: Mapping[Rows, CodedRows], dims: Mapping[Rows, Dims], width: int
) -> CodedEmbedding:
    numbers, kept = table.rows[:, :width].clone(), table.dims.clone()
    bases: list[Tensor] = []
    known: dict[int, int] = {}
    basis_of: list[int] = []
    for size, offset in zip(table.sizes, table.offsets, strict=True):
        own = rows.get((path, offset))
        if own is not None:
            place = slice(offset, offset + size)
            numbers[place] = torch.from_numpy(own.numbers[:, :width])
            kept[place] = torch.from_numpy(dims[path, offset])
        key = 0 if own is None else id(own.basis.decode)
        if key not in known:
            known[key] = len(bases)
            bases.append(_basis(table.rows.shape[1], own)[:width])
        basis_of.append(known[key])
    past = torch.arange(width) >= kept.unsqueeze(1)
    return CodedEmbedding(
        FrozenEmbedding(numbers.masked_fill_(past, 0.0), kept, table.sizes, table.offsets),
        torch.stack(bases),
        basis_of,
    )


def _basis(D: int, rows: CodedRows | None) -> Tensor:
    """float32 `[D, D]`, what coordinates are multiplied by; the identity for rows that stay as they are."""
    return torch.eye(D) if rows is None else torch.from_numpy(rows.basis.decode.astype(np.float32))
