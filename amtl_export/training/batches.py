"""Batches of encoded rows as tensors, shuffled within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amtl_export.data.encode import Rows
from amtl_export.training.distributed import ALONE, Ranks

_BLOCK = 65_536
_WINDOW_BLOCKS = 128  # 8.4 million rows shuffled together


@dataclass(frozen=True)
class Batch:
    """Model inputs and labels.

    Attributes:
        ids: int64 `[B, F]`, or None without single-valued fields.
        numeric: float32 `[B, N]`, or None without numeric fields.
        multi: int64 `[B, L]` for each multi-valued field.
        label: float32 `[B]`; `[B, T]` of several labels.
        share: float32 `[B]`, w / Σ w over the batch, all 0 where the sum is; None without weights.
    """

    ids: Tensor | None
    numeric: Tensor | None
    multi: tuple[Tensor, ...]
    label: Tensor
    share: Tensor | None = None

    @classmethod
    def of(cls, rows: Rows, device: torch.device) -> Batch:
        """Tensors of in-memory rows, on a device."""
        ids = torch.from_numpy(rows.ids).to(device) if rows.packed.types else None
        numeric = torch.from_numpy(np.ascontiguousarray(rows.numeric)).to(device) if rows.numeric.shape[1] else None
        multi = tuple(torch.from_numpy(values.astype(np.int64)).to(device) for values in rows.multi.values())
        known = rows.labels if rows.labels.shape[1] > 1 else rows.label
        label = torch.from_numpy(known.astype(np.float32)).to(device)
        return cls(ids, numeric, multi, label, None if rows.weight is None else _shares(rows.weight).to(device))


def _shares(weight: npt.NDArray[np.float32]) -> Tensor:
    """Summed in float64, which float32 weights do not overflow."""
    wide = weight.astype(np.float64)
    return torch.from_numpy((wide / (wide.sum() or 1.0)).astype(np.float32))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each batch of one epoch: a permutation drawn from (seed, epoch).

    Above 8.4 million rows, blocks of 65,536 neighbouring rows are permuted and then shuffled
    together 128 at a time, so that memory stays bounded and reads stay near each other.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    blocks = rng.permutation(-(-count // _BLOCK))
    rest = np.empty(0, dtype=np.int64)
    for start in range(0, len(blocks), _WINDOW_BLOCKS):
        window = blocks[start : start + _WINDOW_BLOCKS]
        index = np.concatenate([np.arange(b * _BLOCK, min((b + 1) * _BLOCK, count)) for b in window])
        index = np.concatenate([rest, rng.permutation(index)])
        whole = len(index) - len(index) % batch_size
        yield from np.split(index[:whole], range(batch_size, whole, batch_size)) if whole else ()
        rest = index[whole:]
    if len(rest):
        yield rest


@torch.inference_mode()
def predict(model: nn.Module, rows: Rows, batch_size: int = 8192, ranks: Ranks = ALONE) -> npt.NDArray[np.float32]:
    """Logits of all rows in order, float32 `[N, T]`; the model is put in evaluation mode.

    Several processes answer a part of each batch each, and all get all logits.
    """
    model.eval()
    logits = np.zeros(rows.labels.shape, dtype=np.float32)
    for start in range(0, len(rows), batch_size):
        part = ranks.part(min(batch_size, len(rows) - start))
        place = slice(start + part.start, start + part.stop)
        batch = Batch.of(rows.take(place), device_of(model))
        answer = model(batch.ids, batch.numeric, batch.multi).cpu().numpy()
        logits[place] = answer.reshape(len(answer), rows.labels.shape[1])
    ranks.sum_(torch.from_numpy(logits))  # zero elsewhere
    return logits
