"""The basis in which the leading numbers of a row matter most to the model.

What an error d in a row does to the answer is d G dᵀ, G = E[g gᵀ] over requests, g the gradient of the logit in the
row. For rows e with counts q:

    S = G^(1/2),   C = sum over ids of q · eᵀ e,   S C S = Q diag(energies) Qᵀ,  energies falling
    encode = S Q,  decode = Qᵀ S^(-1),   z = e · encode,   e = z · decode

Cutting z behind its first k numbers then does the damage q · (sum of z_j², j >= k). G is scaled to a mean eigenvalue of
1, and what it was scaled by is kept apart, so that z is about as large as e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

#: Eigenvalues of a metric are at least this part of its largest, so that its root can be inverted.
LEAST_EIGENVALUE = 1e-3

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Basis:
    """Another way to write the rows of a field.

    Attributes:
        encode: `[D, D]`, z = e · encode.
        decode: `[D, D]`, e = z · decode, its inverse.
        weights: `[D]`, cutting number j of a row does the damage q · weights[j] · z_j².
        energies: `[D]`, that damage of all rows together for each j.
    """

    encode: Matrix
    decode: Matrix
    weights: Matrix
    energies: Matrix

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the energies' shares (Roy and Vetterli, 2007): 1 to D numbers that matter."""
        total = self.energies.sum()
        shares = self.energies[self.energies > 0] / total if total > 0 else np.empty(0)
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def covariance(rows: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Matrix:
    """C of rows `[V, D]` with counts `[V]`: float64 `[D, D]`, computed block by block."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK].astype(np.float64)
        total += (part * counts[start : start + _CHUNK, None]).T @ part
    return total


def principal_basis(scatter: Matrix, metric: Matrix) -> Basis:
    """The basis of one field.

    Args:
        scatter: C, `[D, D]`.
        metric: G, `[D, D]`, positive semidefinite.
    """
    scaled, scale = _scaled(metric)
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(values, LEAST_EIGENVALUE * values[-1])
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    energies, turned = _falling(root @ scatter @ root)
    D = len(scatter)
    return Basis(root @ turned, turned.T @ inverse, np.full(D, scale), scale * energies)


def shared_basis(scatters: Sequence[Matrix], metrics: Sequence[Matrix]) -> list[Basis]:
    """One orthogonal basis for several fields, which leaves the products of their rows as they are.

    Its directions are those of the fields' C together, each weighed by the mean eigenvalue of its G.

    Args:
        scatters: C of each field.
        metrics: G of each field.
    """
    total = sum(scatter * _scaled(metric)[1] for scatter, metric in zip(scatters, metrics, strict=True))
    _, turned = _falling(np.asarray(total))
    bases, back = [], turned.T
    for scatter, metric in zip(scatters, metrics, strict=True):
        weights = np.einsum("ij,ik,kj->j", turned, metric, turned)
        energies = weights * np.einsum("ij,ik,kj->j", turned, scatter, turned)
        bases.append(Basis(turned, back, np.maximum(weights, 0), np.maximum(energies, 0)))
    return bases


def rows_in(
    basis: Basis, rows: npt.NDArray[Any], out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """z of rows `[V, D]`, float32 `[V, D]`, computed block by block in float64; every zero is +0.

    Args:
        basis: to write them in.
        rows: e.
        out: where z is written; a new array if it is not given.
    """
    turned = np.empty(rows.shape, dtype=np.float32) if out is None else out
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        turned[part] = rows[part].astype(np.float64) @ basis.encode + 0.0
    return turned


def _scaled(metric: Matrix) -> tuple[Matrix, float]:
    """A metric with the mean eigenvalue 1, and what it was; the identity for a metric of zeros."""
    mean = float(np.trace(metric)) / len(metric)
    return (metric / mean, mean) if mean > 0 else (np.eye(len(metric)), 0.0)


def _falling(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues of a symmetric matrix, falling, none below 0, and their vectors as columns.

    A vector's largest number is positive, so that equal inputs give equal bases.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
    return values, vectors * signs
