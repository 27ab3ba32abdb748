"""Side files joined to the data by `[[join]]`."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_places import place, rows, write

from amtl_export.bundle.export import export
from amtl_export.data.catalog import open_source
from amtl_export.data.describe import describe
from amtl_export.data.rows import read_rows
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import freeze
from amtl_export.runtime.predictor import load
from amtl_export.serving.package import PackageConfig, package
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.validate import validate

JOIN = '[[join]]\nfile = "items.csv"\nkey = "item"\n'
FIELDS = """
[[field]]
name = "item"
kind = "categorical"
[[field]]
name = "brand"
kind = "categorical"
"""
DATA = "item,y\n1,1\n 2 ,0\n3,1\n,0\n1,0\n"


def schema(join: str = JOIN, fields: str = FIELDS, head: str = 'label = "y"\n') -> str:
    return f"{head}{join}{fields}"


def test_rows_get_what_their_key_has_in_their_order(tmp_path: Path) -> None:
    folder = place(tmp_path, schema(), **{"a.csv": DATA, "items.csv": "item,brand,other\n2,b,x\n1,a,y\n"})
    found = rows(folder)
    assert found["brand"].to_list() == ["a", "b", None, None, "a"]
    assert "other" not in found.columns
    (chunk,) = read_rows(open_source(str(folder)), seed=0)
    assert chunk.unmatched == (2,)
    assert chunk.raw.columns == ["brand", "item"]
    (join,) = describe(open_source(str(folder))).to_json()["joins"]
    assert join == {"file": "items.csv", "key": "item", "unmatched": 2}


@pytest.mark.parametrize("key", [pl.Int64, pl.Int32, pl.Float64, pl.Decimal(10, 2), pl.String, pl.Categorical])
def test_whole_numbers_and_texts_are_one_key(tmp_path: Path, key: type[pl.DataType] | pl.DataType) -> None:
    own = pl.Series("item", ["1", "2", None, "7"])
    own = own.cast(key) if key in (pl.String, pl.Categorical) else own.cast(pl.Int64).cast(key)
    fields = (
        FIELDS
        if key not in (pl.Float64, pl.Decimal)
        else FIELDS.replace('name = "item"', 'name = "item"\ntype = "int64"')
    )
    folder = place(tmp_path, schema(fields=fields), **{"items.csv": "item,brand\n 2,b\n1,a\n"})
    write(folder / "a.parquet", pl.DataFrame([own, pl.Series("y", [1, 0, 1, 0])]))
    assert rows(folder)["brand"].to_list() == ["a", "b", None, None]


def test_a_parquet_side_file_of_a_text_file(tmp_path: Path) -> None:
    join = JOIN.replace("items.csv", "side/items.parquet") + 'file_key = "id"\nprefix = "item_"\n'
    fields = FIELDS.replace('"brand"', '"item_brand"') + '[[field]]\nname = "item_price"\nkind = "numeric"\n'
    tags = '[[field]]\nname = "item_tags"\nkind = "multi-valued"\n'
    folder = place(tmp_path, schema(join, fields + tags), **{"a.csv": DATA})
    side = {"id": [2, 1], "brand": ["b", "a"], "price": [2.5, None], "tags": [["x", "y"], []]}
    write(folder / "side/items.parquet", pl.DataFrame(side))
    (chunk,) = read_rows(open_source(str(folder)), seed=0)
    assert chunk.fields["item_brand"].to_list() == ["a", "b", None, None, "a"]
    assert chunk.fields["item_price"].to_list() == [None, 2.5, None, None, None]
    assert chunk.fields["item_tags"].to_list() == [None, ["x", "y"], None, None, None]


@pytest.mark.parametrize("pattern", ["", '[files]\npattern = "*.gz"\n'])
def test_a_packed_side_file_without_header_is_no_data(tmp_path: Path, pattern: str) -> None:
    join = '[[join]]\nfile = "./items.txt.gz"\nkey = "item"\nfile_key = "id"\nheader = false\nseparator = "::"\n'
    join += 'columns = ["id", "brand"]\nquote = ""\nencoding = "latin-1"\n'
    folder = place(tmp_path, schema(join, head=f'label = "y"\n{pattern}'))
    write(folder / "a.csv.gz", gzip.compress(DATA.encode()))
    write(folder / "items.txt.gz", gzip.compress("1::é\n2::b\n".encode("latin-1")))
    assert rows(folder)["brand"].to_list() == ["é", "b", None, None, "é"]


def test_label_filter_group_weight_and_split_may_name_joined_columns(tmp_path: Path) -> None:
    head = 'label = "liked = 1"\nfilter = "stock > 0"\ngroup = "shop"\nweight = "w"\n'
    head += '[split]\nrule = "column"\ncolumn = "part"\n'
    items = "item,brand,liked,stock,shop,w,part\n1,a,1,5,s,2,train\n2,b,0,4,t,1,valid\n3,b,0,0,t,1,test\n"
    folder = place(tmp_path, schema(head=head), **{"a.csv": DATA, "items.csv": items})
    (chunk,) = read_rows(open_source(str(folder)), seed=0)
    assert chunk.fields["__label_0"].to_list() == [1, 0, 1]
    assert chunk.fields["__split"].to_list() == [0, 1, 0]
    assert chunk.fields["__weight"].to_list() == [2.0, 1.0, 2.0]
    assert chunk.fields["__group"].n_unique() == 2
    assert chunk.unmatched == (0,)


def test_a_join_may_start_from_a_joined_column(tmp_path: Path) -> None:
    second = '[[join]]\nfile = "brands.csv"\nkey = "brand"\n'
    fields = FIELDS + '[[field]]\nname = "land"\nkind = "categorical"\n'
    sides = {"items.csv": "item,brand\n1,a\n2,b\n", "brands.csv": "brand,land\na,fr\n"}
    folder = place(tmp_path, schema(JOIN + second, fields), **{"a.csv": DATA}, **sides)
    assert rows(folder)["land"].to_list() == ["fr", None, None, None, "fr"]
    (chunk,) = read_rows(open_source(str(folder)), seed=0)
    assert chunk.unmatched == (2, 3)
    write(folder / "schema.toml", schema(second + JOIN, fields))
    with pytest.raises(InputError, match="comes from a later one"):
        open_source(str(folder))


def test_one_side_file_for_two_keys(tmp_path: Path) -> None:
    joins = "".join(f'[[join]]\nfile = "u.csv"\nkey = "{w}"\nfile_key = "id"\nprefix = "{w}_"\n' for w in ("a", "b"))
    fields = "".join(f'[[field]]\nname = "{w}_age"\nkind = "categorical"\n' for w in ("a", "b"))
    folder = place(
        tmp_path, schema(joins, fields), **{"x.csv": "a,b,y\n1,2,1\n2,1,0\n", "u.csv": "id,age\n1,30\n2,40\n"}
    )
    assert rows(folder).select("a_age", "b_age").rows() == [("30", "40"), ("40", "30")]


def test_the_same_column_of_the_data_may_be_left_out(tmp_path: Path) -> None:
    data, items = "item,brand,y\n1,own,1\n", "item,brand,size\n1,a,xl\n"
    folder = place(tmp_path, schema(), **{"a.csv": data, "items.csv": items})
    with pytest.raises(InputError, match=r"in the data and in items\.csv\n(.*\n)*.*brand(.*\n)*.*prefix = "):
        rows(folder)
    write(folder / "schema.toml", schema(JOIN + 'columns = ["size"]\n'))
    assert rows(folder)["brand"].to_list() == ["own"]
    write(folder / "schema.toml", schema(JOIN + 'prefix = "item_"\n'))
    assert rows(folder)["brand"].to_list() == ["own"]


@pytest.mark.parametrize(
    ("items", "join", "message"),
    [
        ("item,brand\n1,a\n2,b\n 1 ,c\n", "", r"twice in the side file\n.*items\.csv, rows 1 and 3, column 'item'"),
        ("item,brand\n1,a\n,b\n", "", r"has no key\n.*items\.csv, row 2"),
        ("id,brand\n1,a\n", "", r"lacks columns\n(.*\n)*.*item(.*\n)*.*file_key"),
        ("item,brand\n1,a\n", 'columns = ["size"]\n', r"lacks columns\n(.*\n)*.*size"),
        ("item,brand\n1,a,b\n", "", r"items\.csv, row 1"),
        ("item,brand\n", "", "no rows"),
        ("", "", "empty"),
        ("item,brand,brand\n1,a,b\n", "", "names a column twice"),
        ("item,size\n1,a\n", "", r"lacks columns that the schema names\n(.*\n)*.*brand"),
    ],
)
def test_side_files_that_cannot_be_used(tmp_path: Path, items: str, join: str, message: str) -> None:
    folder = place(tmp_path, schema(JOIN + join), **{"a.csv": DATA, "items.csv": items})
    with pytest.raises(InputError, match=message):
        rows(folder)


@pytest.mark.parametrize(
    ("join", "message"),
    [
        ('[[join]]\nfile = "none.csv"\nkey = "item"\n', r"no such file\n.*none\.csv"),
        ('[[join]]\nfile = "side/items.svm"\nkey = "item"\n', r"a side file is a table"),
        (JOIN + "colums = []\n", r"join\.0\.colums: unknown key; did you mean columns"),
        ('[[join]]\nfile = "items.csv"\n', r"join\.0\.key: is missing"),
        (JOIN + "header = false\n", "header = false needs columns"),
        (JOIN + JOIN, r"items\.csv gives it too"),
        (JOIN.replace('"item"', '"thing"'), r"lacks columns"),
    ],
)
def test_joins_that_cannot_be_made(tmp_path: Path, join: str, message: str) -> None:
    sides = {"items.csv": "item,brand\n1,a\n", "side/items.svm": "1 1:1\n"}
    folder = place(tmp_path, schema(join), **{"a.csv": DATA}, **sides)
    with pytest.raises(InputError, match=message):
        rows(folder)


def test_a_key_that_is_no_key(tmp_path: Path) -> None:
    fields = FIELDS.replace('name = "item"', 'name = "item"\ntype = "int64"')
    folder = place(tmp_path, schema(fields=fields), **{"items.csv": "item,brand\n1,a\n"})
    write(folder / "a.parquet", pl.DataFrame({"item": [1.0, 2.5], "y": [1, 0]}))
    with pytest.raises(InputError, match=r"key of items\.csv(.*\n)*.*a\.parquet, row 2, column 'item'"):
        rows(folder)


def test_a_run_over_joined_columns_is_proved_from_raw_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 40, 1500)
    clicks = rng.random(1500) < 0.2 + 0.6 * (items % 4 == 0)
    fields = FIELDS + '[[field]]\nname = "price"\nkind = "numeric"\n[[field]]\nname = "tags"\nkind = "multi-valued"\n'
    folder = place(tmp_path, schema(fields=fields))
    data = pl.DataFrame({"item": items, "y": clicks.astype(int)})
    data.write_csv(folder / "data.csv")
    known = [i for i in range(40) if i != 7]
    side = {"item": known, "brand": [f"b{i % 4}" for i in known], "price": [f"{i}.5" for i in known]}
    pl.DataFrame(side | {"tags": ["x|y" if i % 3 else "" for i in known]}).write_csv(folder / "items.csv")
    settings = TrainConfig(data=str(folder), dim=4, epochs=1, batch_size=64, hidden=(8,))
    run = train(settings, tmp_path / "run")
    lost = int((items == 7).sum())
    assert run.metrics["notes"][-1] == (
        f"{lost} of 1,500 rows have no item that is in items.csv; what is joined from it is missing there"
    )
    bundle = export(freeze(run), tmp_path / "bundle")
    verdict = validate(bundle.path, run)
    assert not verdict.problems
    assert verdict.raw_rows_equal == verdict.raw_rows_checked
    assert (verdict.raw_rows_checked or 0) > 100
    version = package(bundle.path, tmp_path / "models", "ctr", PackageConfig(raw_features=True))
    raw = {"item": np.array([["3"]], dtype=object), "brand": np.array([["b3"]], dtype=object)}
    raw |= {"tags": np.array([[""]], dtype=object), "numeric": np.array([[3.5]], dtype=np.float32)}
    assert np.isfinite(load(version.path / "model.onnx").predict(raw)["probability"]).all()
