"""Statistics of numeric fields, gathered chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from amtl_export.files import read_json

#: Of float32, relative.
_RESOLUTION = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class NumericStats:
    """Training statistics of one numeric field, after its transform.

    Attributes:
        mean: of the numbers there.
        std: their deviation; 1 of a constant, which has none.
        least: of them, and `most`.
    """

    mean: float
    std: float
    least: float
    most: float


def open_stats(folder: Path) -> dict[str, NumericStats]:
    """Read `stats.json`."""
    return {name: NumericStats(**values) for name, values in read_json(folder / "stats.json").items()}


class Moments:
    """Mean and variance over chunks (Chan et al.'s pairwise update).

    Args:
        transform: applied to each number first; `log1p` is sign(x)·log(1+|x|).
    """

    def __init__(self, transform: Literal["none", "log1p"]) -> None:
        self._transform = transform
        self._n, self._mean, self._m2 = 0, 0.0, 0.0
        self._least, self._most = float("inf"), float("-inf")

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take a chunk's numbers, none of them missing."""
        if not len(values):
            return
        if self._transform == "log1p":
            values = np.sign(values) * np.log1p(np.abs(values))
        n, mean = len(values), float(values.mean())
        self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))
        delta, total = mean - self._mean, self._n + n
        self._m2 += float(((values - mean) ** 2).sum()) + delta * delta * self._n * n / total
        self._mean += delta * n / total
        self._n = total

    def stats(self) -> NumericStats:
        """A constant has no spread: 1. One too small for float32 to tell values apart by is as large as it can tell."""
        if not self._least < self._most:
            constant = self._least if self._n else 0.0
            return NumericStats(constant, 1.0, constant, constant)
        std = float(np.sqrt(self._m2 / self._n))
        return NumericStats(self._mean, max(std, abs(self._mean) * _RESOLUTION), self._least, self._most)
