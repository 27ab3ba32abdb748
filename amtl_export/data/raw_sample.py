"""Raw rows of the test split, kept beside the encoded ones, so that validation can start where requests do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.vocabulary import read_parquet, write_frame

#: How many are kept; all of a smaller split.
SAMPLE = 2000

_FILE = "raw.parquet"
_PLACE = "__place"


@dataclass
class RawSample:
    """Rows of the test split as the data has them.

    Attributes:
        places: int64, where they are in the split, in order.
    """

    places: npt.NDArray[np.int64]
    _parts: list[pl.DataFrame] = field(default_factory=list)

    @classmethod
    def drawn(cls, rows: int, seed: int) -> RawSample:
        """Which of a split's rows are kept."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x4A3]))
        return cls(np.sort(rng.choice(rows, size=min(rows, SAMPLE), replace=False)))

    def take(self, raw: pl.DataFrame, start: int) -> None:
        """Keep what was drawn of a chunk whose first row is the split's row `start`."""
        places = self.places[(self.places >= start) & (self.places < start + len(raw))]
        if len(places):
            self._parts.append(raw[places - start].with_columns(pl.Series(_PLACE, places)))

    def write(self, folder: Path) -> None:
        """Write `raw.parquet`."""
        write_frame(pl.concat(self._parts, how="vertical_relaxed"), folder / _FILE)


def open_raw(folder: Path) -> tuple[pl.DataFrame, npt.NDArray[np.int64]] | None:
    """Columns of the data, and the rows' places in the test split; None if no sample was kept.

    Raises:
        InputError: the file is truncated.
    """
    if not (folder / _FILE).is_file():
        return None
    frame = read_parquet(folder / _FILE)
    return frame.drop(_PLACE), frame[_PLACE].to_numpy()
