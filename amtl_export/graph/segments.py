"""What a layer multiplies, where rows of it are written in bases: e = z · basis, `k` coordinates for D numbers.

A layer of rows is one of their coordinates, W · e = (W · basisᵀ) · z: the bases are folded into its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bases = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Segment:
    """Neighbouring columns of what a layer multiplies.

    Attributes:
        width: columns of the weight.
        bases: name of the bases `[N, k, D]` that the rows are written in; empty for numbers that are no rows.
        fields: the basis of each of the rows, side by side.
    """

    width: int
    bases: str = ""
    fields: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """As metadata."""
        return f"{self.width} {self.bases} {','.join(map(str, self.fields))}".strip()

    @classmethod
    def of(cls, text: str) -> Segment:
        """What `text` says."""
        width, _, rows = text.partition(" ")
        bases, _, fields = rows.rpartition(" ")  # a module's name may have spaces
        return cls(int(width), bases, tuple(map(int, fields.split(",")))) if rows else cls(int(width))

    def chosen(self, bases: Bases) -> npt.NDArray[np.float64]:
        """`[K, k, D]`, the basis of each of the rows."""
        made: npt.NDArray[np.float64] = bases[self.bases][list(self.fields)].astype(np.float64)
        return made


def folded(weight: npt.NDArray[Any], segments: Sequence[Segment], bases: Bases) -> npt.NDArray[Any]:
    """A weight that multiplies coordinates, `[outputs, columns]`, of one that multiplies rows, `[outputs, inputs]`."""
    parts, begin = [], 0
    for segment in segments:
        columns = weight[:, begin : begin + segment.width]
        begin += segment.width
        parts.append(_folded(columns, segment.chosen(bases)) if segment.bases else columns)
    return np.concatenate(parts, axis=1)


def _folded(weight: npt.NDArray[Any], chosen: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    rows = weight.reshape(len(weight), *chosen.shape[::2]).astype(np.float64)  # [outputs, K, D]
    made: npt.NDArray[np.float32] = np.einsum("ocd,ckd->ock", rows, chosen).astype(np.float32)
    return made.reshape(len(weight), -1)


def places(segments: Sequence[Segment], bases: Bases) -> npt.NDArray[np.int64]:
    """int64 `[columns]`: where coordinates stand among a layer's inputs, if each row is its own and then zeros."""
    found, begin = [], 0
    for own in segments:
        if own.bases:
            _, k, D = bases[own.bases].shape
            found += [begin + row * D + np.arange(k) for row in range(len(own.fields))]
        else:
            found.append(begin + np.arange(own.width))
        begin += own.width
    return np.concatenate(found)


def inverse(segments: Sequence[Segment], bases: Bases) -> npt.NDArray[np.float64]:
    """R `[inputs, columns]` by which z = x · R, of what a layer of rows multiplies and of what a folded one does.

    So a weight W for coordinates is W · Rᵀ for rows.
    """
    blocks = [block for own in segments for block in _inverses(own, bases)]
    made = np.zeros(np.sum([block.shape for block in blocks], axis=0))
    row = column = 0
    for block in blocks:
        rows, columns = block.shape
        made[row : row + rows, column : column + columns] = block
        row, column = row + rows, column + columns
    return made


def _inverses(segment: Segment, bases: Bases) -> Sequence[npt.NDArray[np.float64]]:
    return list(np.linalg.pinv(segment.chosen(bases))) if segment.bases else [np.eye(segment.width)]


def pair_products(segments: Sequence[Segment], bases: Bases) -> npt.NDArray[np.float32]:
    """M `[k, k]` by which z · M · zᵀ = |Σ rows|² - Σ |rows|², of the coordinates z of rows side by side.

    M is B · Bᵀ, B the bases below each other, without the products of a row with itself. Rows in no basis are their
    own coordinates.
    """
    D = next(bases[own.bases].shape[2] for own in segments if own.bases)
    parts = []
    for own in segments:
        parts += list(own.chosen(bases)) if own.bases else [np.eye(D)] * (own.width // D)
    row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    together = np.concatenate(parts)
    made: npt.NDArray[np.float32] = np.where(row[:, None] == row, 0.0, together @ together.T).astype(np.float32)
    return made
