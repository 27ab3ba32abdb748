"""Folders of data that the tests of files share."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from amtl_export.data.catalog import open_source

SCHEMA = 'label = "y"\n[[field]]\nname = "u"\nkind = "categorical"\n'


def place(tmp_path: Path, schema: str = SCHEMA, **files: str | bytes) -> Path:
    """A folder with `schema.toml` and files."""
    folder = tmp_path / "data"
    for name, text in {"schema.toml": schema, **files}.items():
        write(folder / name, text)
    return folder


def write(file: Path, text: str | bytes | pl.DataFrame) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(text, pl.DataFrame):
        text.write_parquet(file)
    else:
        file.write_bytes(text.encode() if isinstance(text, str) else text)


def rows(folder: Path) -> pl.DataFrame:
    """All rows of a folder as the source gives them."""
    return pl.concat(list(open_source(str(folder)).chunks()))
