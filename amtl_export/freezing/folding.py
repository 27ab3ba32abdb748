"""A frozen model with one row of D numbers for every id: what would be served without any of this."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from amtl_export.freezing.frozen import EMBEDDING, FrozenModel
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding


@torch.no_grad()
def fold(frozen: FrozenModel) -> FrozenModel:
    """The same model with one row of D numbers for every id, bases and projections multiplied in: the dense one."""
    decoded = {path: _decoded(table) for path, table in frozen.coded.items()}
    memo: dict[int, Any] = {id(table): decoded[path] for path, table in frozen.coded.items()}
    frozen = frozen.with_model(copy.deepcopy(frozen.module.model, memo)) if memo else frozen
    return _fold_projections(frozen) if frozen.projection_bytes else frozen


def _decoded(table: CodedEmbedding) -> FrozenEmbedding:
    """The rows themselves, of D numbers each."""
    rows = torch.empty(len(table.coded.rows), table.bases.shape[2])
    for size, offset, basis in zip(table.sizes, table.offsets, table.basis_of, strict=True):
        for part in torch.arange(offset, offset + size).split(1 << 16):
            rows[part] = table.coded.rows[part] @ table.bases[basis]
    dims = torch.where(table.coded.dims > 0, rows.shape[1], 0)
    return FrozenEmbedding(rows * (dims > 0).unsqueeze(1), dims, table.sizes, table.offsets)


def _fold_projections(frozen: FrozenModel) -> FrozenModel:
    """A run's model with mde's projections multiplied in."""
    method, D = frozen.ctr.method, frozen.run_data.config.dim
    rows = torch.zeros(len(frozen.table.dims), D)
    for position, (size, offset) in enumerate(zip(method.sizes, method.offsets, strict=True)):
        for ids in torch.arange(size).split(1 << 16):
            rows[offset + ids] = method.lookup(ids.unsqueeze(1), (position,)).squeeze(1)
    dims = torch.where(frozen.table.dims > 0, D, 0)
    folded = FrozenEmbedding(rows * (dims > 0).unsqueeze(1), dims, method.sizes, method.offsets)
    fields = tuple(replace(own, table=EMBEDDING) for own in frozen.fields)
    counts = {EMBEDDING: frozen.counts[frozen.table_path]}
    model = copy.deepcopy(frozen.ctr, {id(frozen.ctr.embedding): folded})
    return replace(frozen.with_model(model), fields=fields, counts=counts)
