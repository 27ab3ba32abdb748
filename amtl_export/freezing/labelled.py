"""The labelled examples of a run's split, and what judges them beside labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import polars as pl

from amtl_export.data.encode import Rows
from amtl_export.data.output_names import logit_names
from amtl_export.data.raw_sample import open_raw
from amtl_export.data.schema import SplitName
from amtl_export.errors import InputError
from amtl_export.source.source import Labels
from amtl_export.spec import Feed
from amtl_export.traffic.draw import from_rows
from amtl_export.training.run import Run

_BATCH = 8192


@dataclass(frozen=True)
class Beside:
    """What judges the labelled examples of a split beside their labels.

    Attributes:
        group: `[N]`, equal for examples of a group; None without groups.
        weight: float32 `[N]`; None where all count alike.
    """

    group: npt.NDArray[Any] | None = None
    weight: npt.NDArray[Any] | None = None


#: Rows of the test split as the data had them, and as training encoded them; None where none were kept.
RawRows = Callable[[], tuple[pl.DataFrame, Rows] | None]

#: A split's name → groups and weights of its examples, in the order of `Labelled`.
BesideOf = Callable[[str], Beside]


def labelled_rows(run: Run, split: SplitName) -> Iterator[tuple[Feed, Labels]]:
    """Inputs and labels, batch by batch.

    Raises:
        InputError: the run does not keep that split.
    """
    rows, scores = run.rows(split), logit_names(run.model_config.labels)
    for start in range(0, len(rows), _BATCH):
        part = rows.take(slice(start, start + _BATCH))
        yield from_rows(part, run.model_config), dict(zip(scores, part.labels.T.astype("f8"), strict=True))


def beside_rows(run: Run, split: SplitName) -> Beside:
    """Groups and weights of a run's split.

    Raises:
        InputError: the run does not keep that split.
    """
    rows = run.rows(split)
    return Beside(rows.group, rows.weight)


def raw_rows(run: Run) -> tuple[pl.DataFrame, Rows] | None:
    """Rows of the test split as the data had them, and as training encoded them; None if the run kept none.

    Raises:
        InputError: what was kept is damaged.
    """
    file = run.path / "data" / "raw.parquet"
    try:
        kept = open_raw(run.path / "data")
    except pl.exceptions.PolarsError as error:
        raise InputError("the raw rows that a run keeps cannot be read", where=file, found=error) from None
    if kept is None:
        return None
    rows, places = run.rows("test"), kept[1]
    if not len(places) or places.dtype.kind not in "iu" or not 0 <= places.min() <= places.max() < len(rows):
        raise InputError("the raw rows that a run keeps are of another split", where=file)
    return kept[0], rows.take(places)
