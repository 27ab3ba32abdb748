"""Model inputs as numpy arrays: drawn like traffic, or taken from encoded rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from amtl_export.data.encode import Rows
from amtl_export.data.vocabulary import MISSING, Vocabulary
from amtl_export.models.config import EmbeddedField, ModelConfig
from amtl_export.spec import Feed

IdDistribution = Literal["zipf", "uniform"]


def from_rows(rows: Rows, config: ModelConfig) -> Feed:
    """The inputs of encoded rows, as the graph takes them."""
    feed: Feed = {}
    if config.single:
        feed["ids"] = rows.ids
    if config.numeric:
        feed["numeric"] = np.ascontiguousarray(rows.numeric, dtype=np.float32)
    return feed | {name: values.astype(np.int64) for name, values in rows.multi.items()}


def draw(
    config: ModelConfig,
    vocabularies: Mapping[str, Vocabulary],
    batch: int,
    rng: np.random.Generator,
    id_distribution: IdDistribution = "zipf",
    length: int = 4,
) -> Feed:
    """Inputs with legal ids.

    Args:
        config: of the model.
        vocabularies: embedded field → vocabulary; their counts are the Zipf distribution that the data has.
        batch: B.
        rng: what is drawn from.
        id_distribution: `zipf` draws ids as often as training saw them, `uniform` every id alike.
        length: L of multi-valued fields.
    """
    single = [config.embedded[i] for i in config.single]
    feed: Feed = {}
    if single:
        columns = [draw_ids(field, vocabularies[field.name], batch, rng, id_distribution) for field in single]
        feed["ids"] = np.stack(columns, axis=1)
    if config.numeric:
        feed["numeric"] = _numbers(config, batch, rng)
    for i in config.multi:
        field = config.embedded[i]
        ids = draw_ids(field, vocabularies[field.name], batch * length, rng, id_distribution).reshape(batch, length)
        used = rng.integers(1, length + 1, size=(batch, 1))
        assert field.padding is not None
        ids[np.arange(length) >= used] = field.padding
        feed[field.name] = ids
    return feed


def draw_ids(
    field: EmbeddedField, vocabulary: Vocabulary, n: int, rng: np.random.Generator, id_distribution: IdDistribution
) -> npt.NDArray[np.int64]:
    """int64 `[n]` legal ids of a field, padding left out; one in 64 is missing or out of vocabulary."""
    size = field.size - (field.padding is not None)
    if id_distribution == "uniform":
        return rng.integers(0, size, n)
    counts = vocabulary.counts[:size].astype(np.float64)
    counts[: MISSING + 1] = np.maximum(counts[: MISSING + 1], counts.sum() / 128)
    total = np.cumsum(counts) if counts.sum() else np.arange(1.0, size + 1)
    drawn = np.searchsorted(total, rng.random(n) * total[-1], side="right")
    ids: npt.NDArray[np.int64] = np.minimum(drawn, size - 1).astype(np.int64, copy=False)
    return ids


def _numbers(config: ModelConfig, batch: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    columns = []
    for field in config.numeric:
        values = rng.normal(field.mean, field.std, batch)
        if field.transform == "log1p":
            values = np.sign(values) * np.expm1(np.minimum(np.abs(values), 30.0))
        values[rng.random(batch) < 0.05] = np.nan
        columns.append(values)
    return np.stack(columns, axis=1).astype(np.float32)
