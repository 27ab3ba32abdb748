"""What an embedding method must offer to be trained, frozen and exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Freezable(Protocol):
    """A module whose answer for an id is a constant row: all that `freeze` asks for.

    One table serves all fields: field f's id i is row `offsets[f] + i`.
    """

    #: V of each field.
    sizes: tuple[int, ...]
    #: First row of each field.
    offsets: tuple[int, ...]

    def frozen_rows(self) -> Tensor:
        """float32 `[V_total, D]`, zero past `frozen_dims` in every row."""

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`, kept dims of every row: 1..D, and 0 for a padding row."""


@runtime_checkable
class Budgeted(Protocol):
    """A method whose dims can be pushed down in training."""

    def sampled_mean_dims(self, sample: int) -> Tensor:
        """Mean dims of the governed fields over sampled ids, weighted by rows; differentiable, 0-d."""

    def shift_logits(self, slope: float) -> None:
        """Make every id keep fewer dims (positive slope) or more."""


@runtime_checkable
class Prunable(Protocol):
    """A method whose dims are cut after training, without a say in it."""

    def prune(self, ratio: float) -> None:
        """Set dims so that their mean over the governed rows is at most ratio·D."""


@runtime_checkable
class Searched(Protocol):
    """A method that learns its dims from the validation split."""

    def controller_parameters(self) -> Iterator[nn.Parameter]:
        """What validation batches train, and training batches leave alone."""


@runtime_checkable
class EmbeddingMethod(Protocol):
    """What a `CtrModel` calls for rows: a `Freezable`, or a module with one inside, which freezing replaces."""

    #: V of each field.
    sizes: tuple[int, ...]
    #: First row of each field; a field that shares another's rows has the same.
    offsets: tuple[int, ...]

    def frozen_dims(self) -> Tensor:
        """int64 `[V_total]`, kept dims of every row: 1..D, and 0 for a padding row."""

    def lookup(self, ids: Tensor, fields: Sequence[int]) -> Tensor:
        """Rows of ids.

        Args:
            ids: int64 `[B, K]`.
            fields: the field of each column: K of them, or one for all columns.

        Returns:
            float32 `[B, K, D]`.
        """
