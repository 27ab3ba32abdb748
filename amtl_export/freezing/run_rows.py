"""What a run keeps of its data, as a frozen model gives it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.encode import Rows
from amtl_export.data.raw_sample import open_raw
from amtl_export.data.schema import SplitName
from amtl_export.spec import Feed
from amtl_export.traffic.draw import from_rows
from amtl_export.training.run import Run

_BATCH = 8192


def labelled_rows(run: Run, split: SplitName) -> Iterator[tuple[Feed, npt.NDArray[np.float64]]]:
    """Inputs and labels of a split, batch by batch."""
    rows = run.rows(split)
    for start in range(0, len(rows), _BATCH):
        part = rows.take(slice(start, start + _BATCH))
        yield from_rows(part, run.model_config), np.asarray(part.label, dtype=np.float64)


def raw_rows(run: Run) -> tuple[pl.DataFrame, Rows] | None:
    """Rows of the test split as the data had them, and as training encoded them; None if the run kept none.

    Raises:
        InputError: what was kept is damaged.
    """
    kept = open_raw(run.path / "data")
    return None if kept is None else (kept[0], run.rows("test").take(kept[1]))
