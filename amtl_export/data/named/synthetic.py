"""A data set made on the fly: Zipf values, planted effects whose usable rank grows with frequency.

The p-th most frequent of V values has a latent vector with r(p) = clip(round(R·(1 - log(1+p)/log(1+V))), 1, R)
leading numbers that are not zero, so that a method which gives frequent values more dims is right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.schema import RandomSplit, Schema
from amtl_export.data.source import CHUNK_ROWS, FILE, ROW, Source
from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError

#: The p-th most frequent value of a large field is 1000 + 7·p.
_FIRST, _STEP = 1000, 7

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticConfig:
    """What `synthetic:rows=…,values=…` sets.

    Attributes:
        rows: examples.
        values: distinct values of each large field.
        fields: number of large fields (user, item, field_2, …).
        rank: R, numbers in the latent vector of the most frequent values.
        tags: distinct values of the multi-valued field; 0 leaves it out.
        history: longest sequence of earlier items of a user; 0 leaves it out. A click is the likelier the
            nearer the item is to those in the sequence.
        exponent: of the Zipf law, in hundredths (105 is 1.05).
        seed: of everything drawn.
    """

    rows: int = 200_000
    values: int = 10_000
    fields: int = 2
    rank: int = 4
    tags: int = 100
    history: int = 0
    exponent: int = 105
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> SyntheticConfig:
        """Read `rows=1000,values=50`.

        Raises:
            InputError: an unknown key, or a value that is not a whole number in range.
        """
        known = {field.name for field in fields(cls)}
        given: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key not in known:
                raise InputError("unknown synthetic option", found=key, allowed=", ".join(sorted(known)))
            least = 0 if key in ("seed", "tags", "history") else 2 if key in ("fields", "values") else 1
            if not value.isdecimal() or int(value) < least:
                raise InputError(f"synthetic option {key}", found=repr(value), allowed=f"a whole number >= {least}")
            given[key] = int(value)
        return cls(**given)


def source(options: str = "") -> Source:
    """The source; needs no files.

    Raises:
        InputError: bad options.
    """
    config = SyntheticConfig.parse(options)
    name = f"synthetic:{options}" if options else "synthetic"
    return Source(name, _schema(config), functools.partial(_chunks, config))


def large_fields(config: SyntheticConfig) -> tuple[str, ...]:
    """Names of the large fields."""
    return ("user", "item", *(f"field_{i}" for i in range(2, config.fields)))


def _schema(config: SyntheticConfig) -> Schema:
    tags = [FieldSchema(name="tags", kind="multi-valued", type="int64", max_length=5, governed=False)]
    history = FieldSchema(name="history", kind="sequence", of="item", type="int64", max_length=max(1, config.history))
    return Schema(
        label="click",
        group="user",
        split=RandomSplit(valid=0.1, test=0.1),
        fields=(
            *(FieldSchema(name=name, kind="categorical", type="int64") for name in large_fields(config)),
            FieldSchema(name="segment", kind="categorical", governed=False),
            *(tags if config.tags else []),
            *([history] if config.history else []),
            FieldSchema(name="age", kind="numeric"),
        ),
    )


@dataclass(frozen=True)
class _Planted:
    """What clicks depend on."""

    cumulative: Floats  # [V] of the Zipf law
    bias: Floats  # [fields, V]
    latent: Floats  # [2, V, R] of user and item
    segment: Floats  # [8]
    tags: Floats  # [tags + 1], the last is 0: no tag

    @classmethod
    def draw(cls, config: SyntheticConfig) -> _Planted:
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, 0]))
        V, R = config.values, config.rank
        weight = np.arange(1, V + 1) ** (-config.exponent / 100)
        usable = usable_rank(np.arange(V), V, R)
        latent = rng.normal(size=(2, V, R)) * (np.arange(R) < usable[:, None])
        tags = np.append(rng.normal(scale=0.5, size=config.tags), 0.0)
        bias = rng.normal(scale=0.4, size=(config.fields, V))
        return cls(np.cumsum(weight / weight.sum()), bias, latent / np.sqrt(R), rng.normal(scale=0.3, size=8), tags)


def usable_rank(p: npt.NDArray[np.int64], V: int, R: int) -> npt.NDArray[np.int64]:
    """r(p) of the module's text, for frequency ranks p from 0."""
    usable: npt.NDArray[np.int64] = np.clip(np.round(R * (1 - np.log1p(p) / np.log1p(V))), 1, R).astype(np.int64)
    return usable


def planted_rank(config: SyntheticConfig, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """r of every id of user or item, int64 `[V]`; 1 for ids that stand for no value."""
    ranks = np.ones(vocabulary.size, dtype=np.int64)
    p = (np.asarray(vocabulary.values).astype(np.int64) - _FIRST) // _STEP
    ranks[FIRST_VALUE : FIRST_VALUE + len(p)] = usable_rank(p, config.values, config.rank)
    return ranks


def _chunks(config: SyntheticConfig) -> Iterator[pl.DataFrame]:
    planted = _Planted.draw(config)
    for number, start in enumerate(range(0, config.rows, CHUNK_ROWS)):
        n = min(CHUNK_ROWS, config.rows - start)
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, 1, number]))
        yield _chunk(config, planted, rng, start, n)


def _chunk(config: SyntheticConfig, planted: _Planted, rng: np.random.Generator, start: int, n: int) -> pl.DataFrame:
    p = np.minimum(np.searchsorted(planted.cumulative, rng.random((config.fields, n))), config.values - 1)
    segment = rng.integers(0, 8, n)
    tag = np.sort(rng.integers(0, config.tags + 1, (n, 4)), axis=1)
    tag[:, 1:][tag[:, 1:] == tag[:, :-1]] = config.tags
    age = np.where(rng.random(n) < 0.05, np.nan, rng.normal(35.0, 10.0, n))

    logit = planted.bias[np.arange(config.fields)[:, None], p].sum(axis=0)
    logit += 5.0 * (planted.latent[0, p[0]] * planted.latent[1, p[1]]).sum(axis=1)
    logit += planted.segment[segment] + planted.tags[tag].sum(axis=1)
    logit += np.nan_to_num((age - 35.0) / 40.0) - 0.5
    earlier = _earlier(config, planted, number=start, n=n)  # [n, history], -1 past each one's end
    if config.history:
        fit = (planted.latent[1, earlier] * planted.latent[1, p[1]][:, None]).sum(axis=2) * (earlier >= 0)
        logit += 3.0 * fit.sum(axis=1) / np.maximum((earlier >= 0).sum(axis=1), 1)
    click = rng.random(n) < 1 / (1 + np.exp(-logit))

    columns: dict[str, pl.Series] = {
        name: pl.Series(p[i] * _STEP + _FIRST) for i, name in enumerate(large_fields(config))
    }
    if config.tags:
        columns["tags"] = _lists(tag, tag < config.tags)
    if config.history:
        columns["history"] = _lists(earlier * _STEP + _FIRST, earlier >= 0)
    columns["segment"] = pl.Series([f"s{s}" for s in segment])
    columns["age"] = pl.Series(age)
    columns["click"] = pl.Series(click.astype(np.float64))
    columns[ROW] = pl.Series(np.arange(start, start + n))
    return pl.DataFrame(columns).with_columns(pl.lit("synthetic").alias(FILE))


def _earlier(config: SyntheticConfig, planted: _Planted, number: int, n: int) -> npt.NDArray[np.int64]:
    """Frequency ranks of earlier items, `[n, history]`, none to all of them; -1 past the end."""
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 2, number]))
    ranks = np.searchsorted(planted.cumulative, rng.random((n, config.history)))
    length = rng.integers(0, config.history + 1, (n, 1))
    return np.where(np.arange(config.history) < length, np.minimum(ranks, config.values - 1), -1)


def _lists(values: npt.NDArray[np.int64], used: npt.NDArray[np.bool_]) -> pl.Series:
    """A List series of the used values of each row, in order."""
    frame = pl.DataFrame({"row": np.repeat(np.arange(len(values)), values.shape[1])[used.ravel()], "v": values[used]})
    lists = frame.group_by("row", maintain_order=True).agg("v")
    every = pl.DataFrame({"row": np.arange(len(values))}).join(lists, on="row", how="left", maintain_order="left")
    return every["v"].fill_null([])
