"""Parts of a pass put together, at a cost that grows with the parts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

#: Rows that may wait however small the whole is.
_LEAST = 1_000_000


class Gathered:
    """A frame that grows by parts, and is made smaller by one function whenever the new parts are as large as the rest.

    So a row is put together a few times, however many parts there are; and the parts take as much memory as the whole.

    Args:
        schema: of the parts.
        put_together: several parts' rows to fewer, of the same schema.
    """

    def __init__(self, schema: Mapping[str, pl.DataType], put_together: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        self._put_together = put_together
        self._parts = [pl.DataFrame(schema=schema)]
        self._done = self._waiting = self._bytes = 0

    def add(self, part: pl.DataFrame) -> None:
        """Take a part."""
        self._parts.append(part)
        self._waiting += len(part)
        self._bytes += frame_bytes(part)
        if self._waiting > max(_LEAST, self._done):
            self.whole()

    @property
    def rows(self) -> int:
        """Of the parts, put together or not."""
        return self._done + self._waiting

    @property
    def nbytes(self) -> int:
        """Of the parts, as `frame_bytes` counts them."""
        return self._bytes

    def whole(self) -> pl.DataFrame:
        """All parts, put together."""
        if len(self._parts) > 1:
            self._parts = [self._put_together(pl.concat(self._parts))]
            self._done, self._waiting, self._bytes = len(self._parts[0]), 0, frame_bytes(self._parts[0])
        return self._parts[0]


def frame_bytes(frame: pl.DataFrame) -> int:
    """Memory of a frame's rows; Polars leaves out the 16 bytes that stand for each text."""
    return int(frame.estimated_size()) + 16 * len(frame) * sum(dtype == pl.String for dtype in frame.dtypes)
