"""Named sources on small files of our own, in the published forms."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from amtl_export.data.catalog import open_source
from amtl_export.data.describe import describe
from amtl_export.data.encode import encode
from amtl_export.data.named import ijcai18
from amtl_export.data.named.synthetic import usable_rank
from amtl_export.data.rows import read_rows
from amtl_export.data.vocabulary import MISSING
from amtl_export.errors import InputError


def movielens(folder: Path, *, timestamps: bool) -> Path:
    rng = np.random.default_rng(0)
    (folder / "users.dat").write_text("".join(f"{u}::{'FM'[u % 2]}::25::{u % 5}::0{u}\n" for u in range(1, 21)))
    movies = "".join(f"{m}::Café {m} ({1980 + m})::Drama|War\n" for m in range(1, 11))
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    stamp = "::978300760" if timestamps else ""
    rows = [f"{rng.integers(1, 21)}::{rng.integers(1, 11)}::{rng.integers(1, 6)}{stamp}\n" for _ in range(600)]
    (folder / ("ratings.dat" if timestamps else "ratings_nots.dat")).write_text("".join(rows))
    return folder


@pytest.mark.parametrize("timestamps", [True, False])
def test_movielens_reads_both_forms(tmp_path: Path, timestamps: bool) -> None:
    source = open_source("ml-1m", movielens(tmp_path, timestamps=timestamps))
    summary = describe(source)
    ratings = [line.split("::")[2][0] for line in next(tmp_path.glob("ratings*")).read_text().splitlines()]
    kept = [r for r in ratings if r != "3"]
    assert summary.rows == len(kept)
    assert summary.label_rate == pytest.approx(sum(r in "45" for r in kept) / len(kept))
    first = next(iter(read_rows(source, 0))).fields
    assert set(first["genre"][0]) == {"Drama", "War"}
    assert all(len(year) == 4 for year in first["release_year"])
    assert summary.groups == first["user_id"].n_unique()


def test_a_line_of_the_wrong_length_is_named(tmp_path: Path) -> None:
    movielens(tmp_path, timestamps=True)
    file = tmp_path / "ratings.dat"
    lines = file.read_text().splitlines()
    lines[41] = "3::4"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"ratings\.dat, row 42"):
        describe(open_source("ml-1m", tmp_path))


def test_a_key_that_occurs_twice_is_named(tmp_path: Path) -> None:
    movielens(tmp_path, timestamps=True)
    with (tmp_path / "users.dat").open("a") as users:
        users.write("7::M::25::1::00000\n")
    with pytest.raises(InputError, match=r"users\.dat.*\n  found: 7"):
        open_source("ml-1m", tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ratings\.dat or ratings_nots\.dat"):
        open_source("ml-1m", tmp_path)


def test_ijcai18_as_published(tmp_path: Path) -> None:
    """Days split the rows; -1 is missing; lists are split at the semicolon."""
    schema = ijcai18._published_schema()
    columns = [*sorted(schema.columns()), "instance_id"]
    lines = [" ".join(columns)]
    for row in range(140):
        values = dict.fromkeys(columns, "-1") | {"is_trade": str(row % 2), "instance_id": str(row)}
        values["context_timestamp"] = str(1_537_200_000 + (row % 7) * 86_400 + 60)
        values["item_id"], values["item_property_list"] = str(7_000_000_000_000_000_000 + row % 5), "11;12;13"
        lines.append(" ".join(values[name] for name in columns))
    (tmp_path / ijcai18.PUBLISHED).write_text("\n".join(lines) + "\n")
    encoded = encode(open_source("ijcai18", tmp_path), tmp_path / "out", seed=0)
    assert {split: len(rows) for split, rows in encoded.rows.items()} == {"train": 100, "valid": 20, "test": 20}
    assert len(encoded.vocabularies["item_id"].values) == 5
    assert encoded.vocabularies["item_property_list"].values.to_list() == ["11", "12", "13"]
    assert set(np.asarray(encoded.rows["train"].ids[:, 1])) == {1}


def test_taobao_history_is_what_the_user_met_on_earlier_days(tmp_path: Path) -> None:
    days = [20190616] * 4 + [20190618] * 4 + [20190619] * 4
    edges = [
        (user, item, 1 + row % 2, days[row]) for row, (user, item) in enumerate([(1, 7), (2, 8), (1, 8), (2, 7)] * 3)
    ]
    (tmp_path / "ecomm_edge_train.txt").write_text("".join("\t".join(map(str, edge)) + "\n" for edge in edges))
    (tmp_path / "ecomm_item_feature.txt").write_text("7\tc\tk\tb\t1.5\n8\tc\tk\tb\t2\n")
    users = "".join(f"{user}\tm\t1\t-1\tx\t5\ta,b\n" for user in (1, 2))
    (tmp_path / "ecomm_user_feature.txt").write_text(users)
    encoded = encode(open_source("taobao-history", tmp_path), tmp_path / "out", seed=0)
    item = encoded.vocabularies["item_id"]
    seven, eight = item.encode(pl.Series([7, 8], dtype=pl.Int64)).tolist()
    pad = encoded.vocabularies["history"].padding
    first = encoded.rows["train"].multi["history"]
    assert first[:, 0].tolist() == [MISSING] * 4
    later = encoded.rows["valid"].multi["history"]
    assert later[0].tolist() == [eight, seven, pad, pad]  # user 1: the last of the file first, none of this day
    assert later[1].tolist() == [seven, eight, pad, pad]
    assert encoded.rows["test"].multi["history"][0].tolist() == [eight, seven, eight, seven]


def test_synthetic_histories_move_the_label(tmp_path: Path) -> None:
    encoded = encode(open_source("synthetic:rows=2000,values=50,history=6"), tmp_path, seed=0)
    rows, vocabulary = encoded.rows["train"], encoded.vocabularies["history"]
    assert rows.multi["history"].shape[1] == 6
    lengths = (rows.multi["history"] != vocabulary.padding).sum(axis=1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    plain = encode(open_source("synthetic:rows=2000,values=50"), tmp_path / "plain", seed=0)
    assert np.array_equal(plain.rows["train"].ids, rows.ids)
    assert not np.array_equal(plain.rows["train"].label, rows.label)


def test_synthetic_is_reproducible_by_seed(tmp_path: Path) -> None:
    arrays = []
    for name, options in (("a", "seed=1"), ("b", "seed=1"), ("c", "seed=2")):
        encoded = encode(open_source(f"synthetic:rows=3000,values=50,{options}"), tmp_path / name, seed=0)
        arrays.append(np.asarray(encoded.rows["train"].label))
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0][:2000], arrays[2][:2000])


def test_synthetic_rank_grows_with_frequency() -> None:
    rank = usable_rank(np.arange(1000), 1000, 16)
    assert rank[0] == 16
    assert rank[-1] == 1
    assert (np.diff(rank) <= 0).all()


def test_synthetic_values_follow_zipf() -> None:
    summary = describe(open_source("synthetic:rows=50000,values=1000,fields=3"))
    assert [f.name for f in summary.fields] == ["user", "item", "field_2", "segment", "tags"]
    assert summary.fields[0].top1pct_share > 0.3
    assert 0.2 < summary.label_rate < 0.8


@pytest.mark.parametrize("options", ["rows=0", "rows=x", "speed=3", "fields=1"])
def test_synthetic_refuses_bad_options(options: str) -> None:
    with pytest.raises(InputError, match="synthetic option"):
        open_source(f"synthetic:{options}")
