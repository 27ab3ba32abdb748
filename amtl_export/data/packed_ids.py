"""Ids of several fields, each in the smallest type that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt


def id_type(size: int) -> np.dtype[Any]:
    """The smallest unsigned type, little-endian, of ids below `size`."""
    return np.min_scalar_type(max(size - 1, 0)).newbyteorder("<")


@dataclass(frozen=True)
class PackedIds:
    """Ids of fields, those of a row side by side, so that a row is read in one go.

    Attributes:
        data: uint8 `[N, R]`.
        types: of each field's ids, in order; R bytes together.
    """

    data: npt.NDArray[Any]
    types: tuple[np.dtype[Any], ...]

    @property
    def width(self) -> int:
        """R."""
        return sum(own.itemsize for own in self.types)

    @property
    def is_sound(self) -> bool:
        """Whether the data is of these types."""
        return self.data.dtype == np.uint8 and self.data.ndim == 2 and self.data.shape[1] == self.width

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> PackedIds:
        """A copy of the rows at `index`, in memory."""
        return PackedIds(np.array(self.data[index]), self.types)

    def column(self, field: int) -> npt.NDArray[Any]:
        """`[N]`, the ids of a field: to read, or to fill in."""
        begin, end = list(accumulate((own.itemsize for own in self.types), initial=0))[field : field + 2]
        values: npt.NDArray[Any] = self.data[:, begin:end].view(self.types[field])
        return values[:, 0]

    def unpacked(self) -> npt.NDArray[np.int64]:
        """int64 `[N, F]`."""
        ids = np.empty((len(self), len(self.types)), dtype=np.int64)
        for field in range(len(self.types)):
            ids[:, field] = self.column(field)
        return ids
