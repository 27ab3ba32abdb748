"""Parquet files in parts: the same rows as at once, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.data import frame_parts
from amtl_export.data.frame_parts import FrameParts, StoredFrame
from amtl_export.errors import InputError


@pytest.mark.parametrize("size", [0, 1, 10, 11, 35])
def test_rows_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(frame_parts, "_ROWS", 10)
    frame = pl.DataFrame({"id": np.arange(size), "value": [None if i % 3 else f"v{i}" for i in range(size)]})
    frame = frame.with_columns(pl.col("value").cast(pl.String))
    parts = FrameParts.of(frame)
    parts.write(tmp_path / "f.parquet")
    assert pl.read_parquet(tmp_path / "f.parquet").equals(frame)
    stored = StoredFrame(tmp_path / "f.parquet")
    assert (stored.schema, stored.size) == (frame.schema, size)
    for first, part in parts:
        assert stored.rows(first, len(part)).equals(part)
    assert sum(len(part) for _, part in parts) == size


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a file is missing\n  where: .*f\.parquet"):
        StoredFrame(tmp_path / "f.parquet")
    pl.DataFrame({"id": np.arange(100)}).write_parquet(tmp_path / "f.parquet")
    whole = (tmp_path / "f.parquet").read_bytes()
    (tmp_path / "f.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"truncated or not Parquet\n  where: .*f\.parquet"):
        StoredFrame(tmp_path / "f.parquet")
