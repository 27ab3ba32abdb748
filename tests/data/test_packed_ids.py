"""Ids in the smallest type that holds them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_places import place
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data.catalog import open_source
from amtl_export.data.encode import Encoded, encode, open_rows
from amtl_export.data.packed_ids import PackedIds, id_type
from amtl_export.errors import InputError


@pytest.mark.parametrize(
    ("size", "kind"),
    [(0, "|u1"), (2, "|u1"), (256, "|u1"), (257, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (1 << 31, "<u4")],
)
def test_the_smallest_type(size: int, kind: str) -> None:
    assert id_type(size).str == kind
    assert np.array(max(size - 1, 0), np.int64).astype(kind) == max(size - 1, 0)


SIZES = st.lists(st.sampled_from([2, 255, 256, 257, 65_536, 65_537, 1 << 31]), max_size=6)


@given(SIZES, st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_ids_come_back(sizes: list[int], rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, rows) for size in sizes], axis=1) if sizes else np.zeros((rows, 0), np.int64)
    types = tuple(map(id_type, sizes))
    width = sum(own.itemsize for own in types)
    packed = PackedIds(np.zeros((rows, width), np.uint8), types)
    for field in range(len(sizes)):
        packed.column(field)[:] = ids[:, field]
    assert (packed.is_sound, packed.width, len(packed)) == (True, width, rows)
    file = io.BytesIO()
    np.save(file, packed.data)
    file.seek(0)
    again = PackedIds(np.load(file), types)
    np.testing.assert_array_equal(again.unpacked(), ids)
    np.testing.assert_array_equal(again[1::2].unpacked(), ids[1::2])
    order = rng.permutation(rows)
    np.testing.assert_array_equal(again[order].unpacked(), ids[order])
    assert again.unpacked().dtype == np.int64


def of_three_widths(tmp_path: Path) -> Encoded:
    """Vocabularies at the last size of a type and at the first of the next, reserved ids and padding among them."""
    sizes = {"a": 254, "b": 255, "c": 65_534, "d": 65_535}  # and two reserved ids
    lists = {"e": 253, "f": 254}  # and padding
    fields = "".join(
        f'[[field]]\nname = "{name}"\nkind = "categorical"\ntype = "int64"\nmin_count = 1\n' for name in sizes
    )
    fields += "".join(
        f'[[field]]\nname = "{name}"\nkind = "multi-valued"\ntype = "int64"\nmin_count = 1\n' for name in lists
    )
    schema = 'label = "y"\n[split]\nrule = "column"\ncolumn = "part"\n' + fields
    numbers = np.arange(65_535)
    train = pl.DataFrame({name: numbers % size for name, size in sizes.items()} | {"y": numbers % 2})
    train = train.with_columns(part=pl.lit("train"))
    train = train.with_columns((pl.lit(numbers) % size).cast(pl.String).alias(name) for name, size in lists.items())
    others = [train[-300:].with_columns(part=pl.lit(split)) for split in ("valid", "test")]
    folder = place(tmp_path, schema)
    pl.concat([train, *others]).write_parquet(folder / "rows.parquet")
    return encode(open_source(str(folder)), tmp_path / "out", seed=0)


def test_rows_lie_in_the_smallest_types(tmp_path: Path) -> None:
    encoded = of_three_widths(tmp_path)
    train = encoded.rows["train"]
    assert [v.size for v in encoded.vocabularies.values()] == [256, 257, 65_536, 65_537, 256, 257]
    assert [own.str for own in train.packed.types] == ["|u1", "<u2", "<u2", "<u4"]
    assert {name: ids.dtype.str for name, ids in train.multi.items()} == {"e": "|u1", "f": "<u2"}
    stored = np.load(tmp_path / "out" / "train" / "ids.npy", mmap_mode="r")
    assert (stored.dtype, stored.shape) == (np.uint8, (65_535, 9))
    frame = pl.read_parquet(tmp_path / "data" / "rows.parquet").filter(part="train")
    expected = np.stack([encoded.vocabularies[name].encode(frame[name]) for name in "abcd"], axis=1)
    np.testing.assert_array_equal(train.ids, expected)
    assert train.ids.max(axis=0).tolist() == [255, 256, 65_535, 65_536]
    assert [int(ids.max()) for ids in train.multi.values()] == [254, 255]


@pytest.mark.parametrize("spoilt", ["as int32", "of another width", "flat"])
def test_ids_of_another_type_are_refused(tmp_path: Path, spoilt: str) -> None:
    encoded = of_three_widths(tmp_path)
    file = tmp_path / "out" / "test" / "ids.npy"
    rows = encoded.rows["test"]
    other = {"as int32": rows.ids.astype("<i4"), "of another width": rows.packed.data[:, 1:], "flat": rows.ids[:, 0]}
    file.unlink()
    np.save(file, other[spoilt])
    with pytest.raises(InputError, match=r"(?s)do not fit their vocabularies.*test/ids\.npy.*9 bytes a row"):
        open_rows(tmp_path / "out", encoded.schema, encoded.vocabularies)
