"""Batches to time a model with: replayed from its labelled examples, or with ids drawn anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.spec import Feed, TensorSpec, batch_size, rows_of
from amtl_export.traffic.draw import IdDistribution, draw

Distribution = Literal["zipf", "uniform", "replay"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("zipf", "uniform", "replay")

#: Rows that the rotating inputs touch take at least this many bytes: more than a server's caches.
_TOUCHED_BYTES = 256 << 20
_MAX_FEEDS = 256

#: Labelled examples that are replayed at most.
_POOL_ROWS = 1 << 20


@dataclass(frozen=True)
class Traffic:
    """Where a model's batches come from.

    Attributes:
        frozen: the model.
        pool: examples of it: labelled ones of the test split, or its own example.
        tables: input → the table that its ids are looked up in directly; of a user's module, as its bundle tells.
    """

    frozen: FrozenModel
    pool: Feed
    tables: Mapping[str, FieldRows]

    @classmethod
    def of(cls, frozen: FrozenModel, lookups: Mapping[str, str] | None = None) -> Traffic:
        """Traffic of a model.

        Args:
            frozen: the model.
            lookups: input → the table that its ids are looked up in.
        """
        fields = {own.name: own for own in frozen.fields}
        direct = {name: fields[table] for name, table in (lookups or {}).items() if table in fields}
        pool = frozen.example if frozen.labelled is None else _gathered(frozen, frozen.labelled("test"))
        return cls(frozen, pool, direct)

    @property
    def resampled(self) -> list[str]:
        """Inputs of a user's module whose values are always those of the pool: their ids cannot be drawn."""
        if self.frozen.data is not None:
            return []
        return [spec.name for spec in self.frozen.inputs if spec.name not in self.tables]

    def feeds(self, batch: int, distribution: Distribution, seed: int) -> list[Feed]:
        """Enough batches of one kind that their rows together outgrow the caches.

        Raises:
            InputError: batches of this size cannot be put together.
        """
        touched = batch * max(1, len(self.frozen.fields)) * self.frozen.table.rows.shape[1] * 4
        count = int(np.clip(-(-_TOUCHED_BYTES // touched), 8, _MAX_FEEDS))
        rng = np.random.default_rng(np.random.SeedSequence([seed, batch]))
        if distribution == "replay":
            total = self._rows(batch)
            return [self._take((i * batch + np.arange(batch)) % total) for i in range(count)]
        return [self._drawn(batch, distribution, rng) for _ in range(count)]

    def _rows(self, batch: int) -> int:
        """Examples in the pool."""
        specs = self.frozen.inputs
        total = batch_size(self.pool, specs)
        fixed = [s.name for s in specs if s.batch_axis is None and any(isinstance(size, str) for size in s.shape)]
        if total is None or (fixed and batch != total):
            raise InputError(
                "bench: batches cannot be put together from single examples",
                where=", ".join(fixed) or "no input is batched",
                found=f"batch {batch}",
                allowed=f"the example's own: {total}",
            )
        return total

    def _take(self, rows: npt.NDArray[np.int64]) -> Feed:
        return rows_of(self.pool, self.frozen.inputs, rows)

    def _drawn(self, batch: int, distribution: IdDistribution, rng: np.random.Generator) -> Feed:
        if self.frozen.data is not None:
            return draw(self.frozen.config, self.frozen.vocabularies, batch, rng, distribution)
        feed = self._take(rng.integers(0, self._rows(batch), batch))
        for spec in self.frozen.inputs:
            if spec.name in self.tables:
                feed[spec.name] = self._ids(spec, feed[spec.name], distribution, rng)
        return feed

    def _ids(
        self, spec: TensorSpec, like: npt.NDArray[Any], distribution: IdDistribution, rng: np.random.Generator
    ) -> npt.NDArray[Any]:
        """Ids in the place of others; where those are padding, they stay."""
        field = self.tables[spec.name]
        weights = np.ones(field.size) if distribution == "uniform" else self._weights(field)
        total = np.cumsum(weights)
        ids = np.searchsorted(total, rng.random(like.shape) * total[-1], side="right")
        ids = np.minimum(ids, field.size - 1).astype(spec.dtype)
        return ids if field.padding is None else np.where(like == field.padding, like, ids)

    def _weights(self, field: FieldRows) -> npt.NDArray[np.float64]:
        """How often each id is asked for: as training saw it, or by Zipf's law where that is not known."""
        counts = self.frozen.field_counts(field)
        if counts is None or not counts.any():
            return 1.0 / np.arange(1, field.size + 1)
        return counts.astype(np.float64)


def _gathered(frozen: FrozenModel, batches: Iterator[tuple[Feed, Any]]) -> Feed:
    """Labelled examples side by side, as many as may be replayed; whole batches where examples cannot be joined."""
    specs, parts, rows = frozen.inputs, [], 0
    for feed, _ in batches:
        parts.append(feed)
        rows += batch_size(feed, specs) or 0
        if rows >= _POOL_ROWS or any(spec.batch_axis is None for spec in specs):
            break
    if len(parts) == 1:
        return parts[0]
    return {spec.name: _joined([part[spec.name] for part in parts], spec) for spec in specs}


def _joined(parts: list[npt.NDArray[Any]], spec: TensorSpec) -> npt.NDArray[Any]:
    """Arrays side by side; multi-valued fields of a run are filled up to the longest with their padding."""
    axis = spec.batch_axis
    assert axis is not None
    free = [a for a, size in enumerate(spec.shape) if isinstance(size, str) and a != axis]
    padding = next((column.padding for column in spec.columns if column.padding is not None), 0)
    for a in free:
        longest = max(part.shape[a] for part in parts)
        parts = [_filled(part, a, longest, padding) for part in parts]
    return np.concatenate(parts, axis=axis)


def _filled(part: npt.NDArray[Any], axis: int, length: int, padding: int) -> npt.NDArray[Any]:
    widths = [(0, length - part.shape[a] if a == axis else 0) for a in range(part.ndim)]
    return np.pad(part, widths, constant_values=padding)
