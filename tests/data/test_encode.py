from hashlib import blake2b
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data import stream as stream_module
from amtl_export.data import value_index as index_module
from amtl_export.data.catalog import open_source
from amtl_export.data.counting import ValueCounter
from amtl_export.data.describe import describe
from amtl_export.data.encode import encode, open_rows, padded_ids
from amtl_export.data.rows import read_rows
from amtl_export.data.vocabulary import MISSING
from amtl_export.errors import InputError

SCHEMA = """
label = "clicked"
[split]
rule = "column"
column = "part"
[[field]]
name = "city"
kind = "categorical"
min_count = 1
[[field]]
name = "tags"
kind = "multi-valued"
separator = ";"
min_count = 1
[[field]]
name = "price"
kind = "numeric"
"""
ROWS = """part,city,tags,price,clicked
train,"Paris, Texas",a;b,1.5,1
train,Rome,a,,0
train,,,2.5,1
train,Rome,b; c ;,3.5,0
valid,Rome,z,1,1
valid,Oslo,a,1,0
test,Rome,a;z,1,1
test,Rome,a,1,0
"""


def folder(tmp_path: Path, rows: str = ROWS, schema: str = SCHEMA, name: str = "rows.csv") -> str:
    place = tmp_path / "own"
    place.mkdir(parents=True)
    (place / "schema.toml").write_text(schema)
    (place / name).write_text(rows)
    return str(place)


def test_commas_in_quotes_missing_unknown_and_many_values(tmp_path: Path) -> None:
    encoded = encode(open_source(folder(tmp_path)), tmp_path / "out", seed=0)
    city, tags = encoded.vocabularies["city"], encoded.vocabularies["tags"]
    assert city.values.to_list() == ["Rome", "Paris, Texas"]
    assert tags.values.to_list() == ["a", "b", "c"]
    assert tags.padding == 5
    train, valid = encoded.rows["train"], encoded.rows["valid"]
    assert train.ids[:, 0].tolist() == [3, 2, MISSING, 2]
    assert train.multi["tags"].tolist() == [[2, 3], [2, 5], [MISSING, 5], [3, 4]]
    assert np.isnan(train.numeric[1, 0])
    assert encoded.stats["price"].mean == pytest.approx(2.5)
    assert valid.ids[:, 0].tolist() == [2, 0]  # Oslo is unknown
    assert valid.multi["tags"][0].tolist() == [0, 5]
    assert train.label.tolist() == [1, 0, 1, 0]


def test_a_sequence_has_the_ids_of_its_field(tmp_path: Path) -> None:
    schema = SCHEMA.replace('kind = "multi-valued"', 'kind = "sequence"\nof = "city"')
    rows = ROWS.replace("a;b", '"Rome;Paris, Texas"').replace("b; c ;", "Oslo;Rome;")
    encoded = encode(open_source(folder(tmp_path, rows, schema)), tmp_path / "out", seed=0)
    city, tags = encoded.vocabularies["city"], encoded.vocabularies["tags"]
    assert tags.values.to_list() == city.values.to_list() == ["Rome", "Paris, Texas"]
    assert city.counts.tolist() == tags.counts.tolist() == [0, 1, 2, 1, 0]  # of the field itself, padding last
    assert tags.digest != city.digest
    assert city.padding == tags.padding == 4
    assert encoded.rows["train"].multi["tags"].tolist() == [[2, 3], [0, 4], [MISSING, 4], [0, 2]]
    assert encoded.rows["train"].ids[:, 0].tolist() == [3, 2, MISSING, 2]


@pytest.mark.parametrize("form", ["tsv", "parquet", "::"])
def test_other_formats_give_the_same_ids(tmp_path: Path, form: str) -> None:
    expected = encode(open_source(folder(tmp_path)), tmp_path / "csv", seed=0)
    frame = pl.read_csv(tmp_path / "own" / "rows.csv")
    place = tmp_path / form.replace(":", "_")
    place.mkdir()
    schema = SCHEMA
    if form == "parquet":
        frame.write_parquet(place / "rows.parquet")
    elif form == "tsv":
        frame.write_csv(place / "rows.tsv", separator="\t")
    else:
        schema += '[files]\nformat = "csv"\nseparator = "::"\n'
        lines = ["::".join(frame.columns)] + ["::".join("" if v is None else str(v) for v in r) for r in frame.rows()]
        (place / "rows.csv").write_text("\n".join(lines) + "\n")
    (place / "schema.toml").write_text(schema)
    found = encode(open_source(str(place)), tmp_path / "out", seed=0)
    for split, rows in expected.rows.items():
        np.testing.assert_array_equal(found.rows[split].ids, rows.ids)
        np.testing.assert_array_equal(found.rows[split].numeric, rows.numeric)
        np.testing.assert_array_equal(found.rows[split].multi["tags"], rows.multi["tags"])


def test_chunk_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path)
    whole = encode(open_source(place), tmp_path / "whole", seed=0)
    monkeypatch.setattr(stream_module, "CHUNK_ROWS", 3)
    parts = encode(open_source(place), tmp_path / "parts", seed=0)
    assert [v.digest for v in parts.vocabularies.values()] == [v.digest for v in whole.vocabularies.values()]
    for split, rows in whole.rows.items():
        np.testing.assert_array_equal(parts.rows[split].ids, rows.ids)
    assert parts.stats["price"].std == pytest.approx(whole.stats["price"].std)


def test_limit_rows(tmp_path: Path) -> None:
    chunks = list(read_rows(open_source("synthetic:rows=1000,values=50"), seed=0, limit_rows=300))
    assert sum(len(c.fields) for c in chunks) == 300


def test_random_split_depends_on_the_seed_alone() -> None:
    source = open_source("synthetic:rows=5000,values=50")
    first, again, other = (pl.concat([c.fields["__split"] for c in read_rows(source, seed)]) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert first.value_counts().sort("count")["count"].to_list()[-1] == pytest.approx(4000, abs=150)


def test_time_split_on_dates_as_texts(tmp_path: Path) -> None:
    rows = "day,city,y\n" + "".join(f"2024-01-0{d},c{i % 2},{i % 2}\n" for d in (1, 2, 3) for i in range(4))
    schema = (
        'label = "y"\n[split]\nrule = "time"\ncolumn = "day"\nvalid_from = "2024-01-02"\ntest_from = "2024-01-03"\n'
        '[[field]]\nname = "city"\nkind = "categorical"\n'
    )
    encoded = encode(open_source(folder(tmp_path, rows, schema)), tmp_path / "out", seed=0)
    assert {split: len(rows) for split, rows in encoded.rows.items()} == {"train": 4, "valid": 4, "test": 4}


def spoilt(tmp_path: Path, old: str, new: str) -> InputError:
    with pytest.raises(InputError) as caught:
        encode(open_source(folder(tmp_path, ROWS.replace(old, new, 1))), tmp_path / "out", seed=0)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "row", "found"),
    [
        ("a,,0", "a,,", 2, "None"),
        ("a,,0", "a,,2", 2, "'2'"),
        ("a,,0", "a,,nan", 2, "'nan'"),
        ("a,,0", "a,,yes", 2, "'yes'"),
        ("2.5,1", "cheap,1", 3, "'cheap'"),
        ("2.5,1", "inf,1", 3, "'inf'"),
        ("valid,Rome", "later,Rome", 5, "'later'"),
    ],
)
def test_a_bad_value_is_named_with_its_row(tmp_path: Path, old: str, new: str, row: int, found: str) -> None:
    error = spoilt(tmp_path, old, new)
    assert f"rows.csv, row {row}, column" in str(error)
    assert f"found: {found}" in str(error)


def test_one_class_only(tmp_path: Path) -> None:
    error = spoilt(tmp_path, "valid,Oslo,a,1,0", "valid,Oslo,a,1,1")
    assert "valid split" in str(error)
    assert "2 rows, 2 positive" in str(error)


def test_a_cut_off_file(tmp_path: Path) -> None:
    assert "cut off" in str(spoilt(tmp_path, "test,Rome,a,1,0\n", "test,Ro"))


def test_too_many_columns(tmp_path: Path) -> None:
    error = spoilt(tmp_path, "test,Rome,a,1,0", "test,Rome,a,1,0,9,9")
    assert "too many columns" in str(error)
    assert "rows.csv, row 8" in str(error)


def test_a_missing_column(tmp_path: Path) -> None:
    error = spoilt(tmp_path, "part,city", "part,town")
    assert "['city']" in str(error)


def test_a_truncated_array(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path))
    encoded = encode(source, tmp_path / "out", seed=0)
    file = tmp_path / "out" / "test" / "ids.npy"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="encoded rows cannot be read"):
        open_rows(tmp_path / "out", source.schema, encoded.vocabularies)


BESIDE = """uid,w,part,city,y
7,1,train,Rome,1
,0.5,train,Oslo,0
8, 2 ,train,Rome,0
7,0,valid,Rome,1
7,3,valid,Oslo,1
8,1e-3,valid,Oslo,0
,1,test,Rome,1
8,1,test,Rome,0
"""
WITH_BESIDE = """
label = "y"
group = "user"
weight = "w"
[split]
rule = "column"
column = "part"
[[field]]
name = "user"
column = "uid"
kind = "categorical"
type = "int64"
[[field]]
name = "city"
kind = "categorical"
"""


def test_groups_and_weights_are_stored_beside_the_label(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, BESIDE, WITH_BESIDE))
    encoded = encode(source, tmp_path / "out", seed=0)
    rows = open_rows(tmp_path / "out", source.schema, encoded.vocabularies)
    train, valid = rows["train"], rows["valid"]
    assert train.group is not None
    assert train.weight is not None
    assert train.weight.tolist() == [1.0, 0.5, 2.0]
    assert [str(values.dtype) for values in (train.weight, train.group)] == ["float32", "uint64"]
    # The first eight bytes of BLAKE2b of "7" and "8": the same on every machine; 0 for rows without a user.
    seven, eight = (int.from_bytes(blake2b(text, digest_size=8).digest(), "little") for text in (b"7", b"8"))
    assert train.group.tolist() == [seven, 0, eight]
    assert valid.group is not None
    assert valid.take(slice(1, 3)).group.tolist() == [seven, eight]  # type: ignore[union-attr]
    assert valid.take(np.array([2])).weight.tolist() == [np.float32(1e-3)]  # type: ignore[union-attr]
    plain = open_source(folder(tmp_path / "plain"))
    test = encode(plain, tmp_path / "plain" / "out", seed=0).rows["test"]
    assert test.group is test.weight is test.take(slice(1)).group is None


def test_a_group_may_be_a_column_that_is_no_field(tmp_path: Path) -> None:
    frame = pl.read_csv(BESIDE.encode())
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "schema.toml").write_text(WITH_BESIDE.replace('group = "user"', 'group = "uid"'))
    frame.write_parquet(tmp_path / "own" / "rows.parquet")
    source = open_source(str(tmp_path / "own"))
    encoded = encode(source, tmp_path / "out", seed=0)
    (tmp_path / "csv").mkdir()
    same = open_source(folder(tmp_path / "csv", BESIDE, WITH_BESIDE))
    for split, rows in encode(same, tmp_path / "csv" / "out", seed=0).rows.items():
        found = encoded.rows[split]
        np.testing.assert_array_equal(found.group, rows.group)
        np.testing.assert_array_equal(found.weight, rows.weight)


@pytest.mark.parametrize(
    ("old", "new", "row", "found"),
    [
        ("7,1,train", "7,-1,train", 1, "'-1'"),
        ("7,1,train", "7,,train", 1, "None"),
        ("8, 2 ,train", "8,two,train", 3, "'two'"),
        ("7,3,valid", "7,inf,valid", 5, "'inf'"),
        ("7,3,valid", "7,nan,valid", 5, "'nan'"),
        ("7,3,valid", "7,1e39,valid", 5, "'1e39'"),  # no float32
    ],
)
def test_a_bad_weight_is_named_with_its_row(tmp_path: Path, old: str, new: str, row: int, found: str) -> None:
    assert old in BESIDE
    with pytest.raises(InputError) as caught:
        encode(open_source(folder(tmp_path, BESIDE.replace(old, new), WITH_BESIDE)), tmp_path / "out", seed=0)
    assert f"rows.csv, row {row}, column 'w'" in str(caught.value)
    assert f"found: {found}" in str(caught.value)
    assert "allowed: a finite number >= 0" in str(caught.value)


def test_weights_that_leave_one_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 rows of a weight above 0, 2 positive") as caught:
        rows = BESIDE.replace("7,0,valid", "7,1,valid").replace("8,1e-3,valid", "8,0,valid")
        encode(open_source(folder(tmp_path, rows, WITH_BESIDE)), tmp_path / "out", seed=0)
    assert "the valid split" in str(caught.value)


def test_a_filter_leaves_out_rows_before_their_weights_are_looked_at(tmp_path: Path) -> None:
    rows = BESIDE.replace("8, 2 ,train", "8,,train")
    schema = WITH_BESIDE.replace('label = "y"', 'label = "y"\nfilter = "w IS NOT NULL"')
    encoded = encode(open_source(folder(tmp_path, rows, schema)), tmp_path / "out", seed=0)
    assert encoded.rows["train"].weight is not None
    assert encoded.rows["train"].weight.tolist() == [1.0, 0.5]


def test_describe_counts_groups(tmp_path: Path) -> None:
    summary = describe(open_source(folder(tmp_path, BESIDE, WITH_BESIDE)))
    assert (summary.groups, summary.weighted) == (3, True)
    assert describe(open_source("synthetic:rows=2000,values=40")).groups == 40
    plain = describe(open_source(folder(tmp_path / "plain")))
    assert (plain.groups, plain.weighted) == (None, False)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "?"]), max_size=5), max_size=20))
def test_padding_fills_the_right_and_keeps_order(lists: list[list[str]]) -> None:
    counter = ValueCounter("f", "string", padded=True)
    counter.add(pl.Series(["a", "b", "c"]))
    vocabulary = counter.vocabulary(1)
    ids = padded_ids(pl.Series(lists, dtype=pl.List(pl.String)), vocabulary, 5)
    known = {"a": 2, "b": 3, "c": 4, "?": 0}
    for row, values in zip(ids.tolist(), lists, strict=True):
        own = [known[v] for v in values] or [MISSING]
        assert row == own + [vocabulary.padding] * (5 - len(own))


@pytest.mark.parametrize("kind", ["categorical", "multi-valued"])
@pytest.mark.parametrize("limit", [1 << 29, 1 << 17], ids=["in memory", "spilled"])
def test_texts_of_one_hash_are_counted_apart(
    kind: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes of 64 bits that differ in 10 of them alone."""
    hashes = index_module._hashes
    monkeypatch.setattr(index_module, "_hashes", lambda values: hashes(values) | np.uint64((1 << 54) - 1))
    monkeypatch.setattr(ValueCounter, "_WAITING", 64)
    monkeypatch.setattr(ValueCounter, "_MANY", 64)
    monkeypatch.setattr(stream_module, "CHUNK_ROWS", 500)
    numbers = np.random.default_rng(0).zipf(1.2, 6000) % 3000
    values = pl.Series([f"v{number}" for number in numbers])
    part = ["train"] * 4000 + ["valid"] * 1000 + ["test"] * 1000
    frame = pl.DataFrame({"v": values, "part": part, "clicked": numbers % 2})
    schema = 'label = "clicked"\n[split]\nrule = "column"\ncolumn = "part"\n[[field]]\nname = "v"\nmin_count = 2\n'
    place = tmp_path / "data"
    place.mkdir()
    (place / "schema.toml").write_text(f'{schema}kind = "{kind}"\n')
    frame.write_csv(place / "rows.csv")
    encoded = encode(open_source(str(place)), tmp_path / "out", seed=0, counted_bytes=limit)
    counts = values.head(4000).value_counts().filter(pl.col("count") >= 2).sort(["count", ""], descending=[True, False])
    vocabulary = encoded.vocabularies["v"]
    assert vocabulary.values.to_list() == counts[""].to_list()
    assert vocabulary.counts[2 : 2 + len(counts)].tolist() == counts["count"].to_list()
    ids = {value: number for number, value in enumerate(counts[""], 2)}
    rows = encoded.rows["train"]
    stored = rows.ids[:, 0] if kind == "categorical" else rows.multi["v"][:, 0]
    assert stored.tolist() == [ids.get(value, 0) for value in values.head(4000)]
