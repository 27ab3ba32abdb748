"""Labels and filters read a column as what they compare it with, and no field sees it."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_places import place

from amtl_export.data.catalog import open_source
from amtl_export.data.describe import describe
from amtl_export.data.expressions import label_column
from amtl_export.data.rows import read_rows
from amtl_export.data.sql import columns_of
from amtl_export.errors import InputError

SCHEMA = '{}\n[[field]]\nname = "u"\nkind = "categorical"\nmin_count = 1\n'
LONG = 2**62


def labels(folder: Path) -> list[int]:
    return [v for chunk in read_rows(open_source(str(folder)), 0) for v in chunk.fields[label_column(0)].to_list()]


def texts(tmp_path: Path, head: str, *lines: str) -> Path:
    return place(tmp_path, SCHEMA.format(head), **{"a.csv": "\n".join(["u,v,w", *lines]) + "\n"})


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("label = \"v = 'buy'\"", [1, 0, 0]),
        ("label = \"v IN ('buy', 'cart')\"", [1, 0, 1]),
        ("label = \"v LIKE 'b%'\"", [1, 0, 0]),
        ("label = \"CASE WHEN v = 'buy' THEN 1 ELSE 0 END\"", [1, 0, 0]),
        ('label = "w >= 2"', [0, 1, 1]),
        ('label = "w = 2.0"', [0, 1, 0]),
        ('label = "w IN (2, 3)"', [0, 1, 1]),
        ('label = "w BETWEEN 1 AND 2"', [1, 1, 0]),
        ("label = \"w > 1 AND v = 'cart'\"", [0, 0, 1]),
        ('label = "v IS NULL OR w = 3"', [0, 0, 1]),
        ("label = \"u = 'a'\"", [1, 0, 1]),
        ("label = \"SUBSTR(v, 1, 2) = 'bu'\"", [1, 0, 0]),
        ("label = \"LEFT(v, 1) = 'b' OR RIGHT(v, 1) = 'w'\"", [1, 1, 0]),
        ('label = "w = 1"\nfilter = "v <> \'view\'"', [1, 0]),
    ],
)
def test_texts_and_numbers_of_csv(tmp_path: Path, head: str, expected: list[int]) -> None:
    assert labels(texts(tmp_path, head, "a,buy,1", "b,view,2", "a,cart,3")) == expected


@pytest.mark.parametrize("values", [("true", "false"), ("True", "FALSE"), ("1", "0"), ("1.0", "0"), (" 1", "0 ")])
def test_a_label_is_a_truth_value_or_0_and_1(tmp_path: Path, values: tuple[str, str]) -> None:
    assert labels(texts(tmp_path, 'label = "v"', f"a,{values[0]},1", f"b,{values[1]},2")) == [1, 0]


@pytest.mark.parametrize(
    ("values", "label", "expected"),
    [
        ([True, False, True], "v", [1, 0, 1]),
        ([Decimal("1.5"), Decimal("2.5"), Decimal("3")], "v > 2", [0, 1, 1]),
        ([date(2024, 5, 1), date(2024, 5, 2), date(2024, 5, 3)], "v >= '2024-05-02'", [0, 1, 1]),
        ([datetime(2024, 5, 1), datetime(2024, 5, 2), datetime(2024, 5, 3)], "v >= '2024-05-02'", [0, 1, 1]),
        ([LONG, LONG + 1, LONG + 2], f"v = {LONG + 1}", [0, 1, 0]),
        (pl.Series(["x", "y", "x"], dtype=pl.Categorical), "v = 'x'", [1, 0, 1]),
    ],
)
def test_types_of_parquet(tmp_path: Path, values: Any, label: str, expected: list[int]) -> None:
    folder = place(tmp_path, SCHEMA.format(f'label = "{label}"'))
    pl.DataFrame({"u": ["a", "b", "c"], "v": values}).write_parquet(folder / "a.parquet")
    assert labels(folder) == expected


def test_long_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    lines = [f"{LONG + i},x,{LONG + i}" for i in range(3)]
    folder = texts(tmp_path, f'label = "w = {LONG + 1}"\nfilter = "u <> {LONG + 2}"', *lines)
    source = open_source(str(folder))
    assert labels(folder) == [0, 1]
    (chunk,) = read_rows(source, 0)
    assert chunk.fields["u"].to_list() == [str(LONG), str(LONG + 1)]


def test_missing_texts_of_files_are_null_in_expressions(tmp_path: Path) -> None:
    head = 'label = "w = 1"\nfilter = "v IS NOT NULL"\n[files]\nmissing = ["n/a"]'
    assert labels(texts(tmp_path, head, "a,n/a,1", "b,,0", "c,x,1", "d,y,0")) == [1, 0]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ('label = "w > 1"', "row 2, column 'w'.*found: 'two'.*allowed: a number"),
        (
            'label = "w"',
            "row 2, column 'w'.*found: 'two'.*allowed: 0 or 1 in every row.*fix: say which .*\"w = 'yes'\"",
        ),
        (
            'label = "w > 1"\nfilter = "w > 0"',
            "allowed: a number.*fix: correct or drop the row, or name the text under",
        ),
        ('label = "TRY_CAST(w AS INT)"', "row 2.*found: 'two'.*fix: correct the row, or leave it out by filter"),
        ('label = "w = \'two\'"\nfilter = "v + w"', "allowed: what is 0 or 1|a number"),
        ("label = \"v || 'x'\"", "the label expression cannot be computed"),
        ('label = "v = \'x\'"\nfilter = "CAST(u AS INT) > 1"', "a.csv, from row 1 .*conversion from `str`.*TRY_CAST"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path: Path, head: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        labels(texts(tmp_path, head, "a,x,1", "b,y,two"))
    assert re.search(says, str(caught.value).replace("\n", " ")), caught.value


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ('label = "w >= MAX(w)"', r"label takes several rows together \(Agg\)"),
        ('label = "w > AVG(w)"', "several rows together"),
        ('label = "v"\nfilter = "w > QUANTILE_DISC(w, 0.5)"', r"filter takes several rows together \(Quantile\)"),
        ('label = "v"\nfilter = "ROW_NUMBER() OVER (ORDER BY w) > 2"', "several rows together"),
        ('label = "SUM(v) OVER (PARTITION BY u) > 3"', "several rows together"),
        ('label = "LAG(w) OVER (ORDER BY w) > 1"', "several rows together"),
        ('label = "CORR(v, w) > 0"', "several rows together"),
        ('label = "COVAR_POP(v, w) > 0"', r"several rows together \(Correlation\)"),
        ('label = "COUNT(*) > w"', r"several rows together \(Len\)"),
        ('label = "COUNT(*) > 3"', "names no column"),
        ('label = "1 = 1"', "names no column"),
        ('label = "v"\nfilter = "1"', "names no column"),
        ('label = "v rate"', "gives column 'v' another name.*double quotes"),
        ('label = "v AS w"', "another name"),
        ('label = "order"', "not a column or SQL expression.*double quotes"),
        ('label = "__row > 1"', "cannot be read.*__row"),
        ('label = "v"\n[[field]]\nname = "f"\ncolumn = "__file"\nkind = "categorical"', "cannot be read.*__file"),
        ('label = "v"\n[[field]]\nname = "__split"\nkind = "categorical"', "cannot be read.*__split"),
        ('label = "v"\n[[field]]\nname = "f"\ncolumn = "^u.*$"\nkind = "categorical"', "cannot be read"),
    ],
)
def test_what_is_no_expression_of_a_row_is_refused(tmp_path: Path, head: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        labels(texts(tmp_path, head, "a,1,1", "b,0,2"))


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(" OR ".join(f"w = {k}" for k in range(700)), id="deeper than Python goes"),
        pytest.param(" OR ".join(["w = 1"] * 20_000), id="deeper than a stack holds"),
        pytest.param("CASE " + " ".join(f"WHEN w={k} THEN 1" for k in range(900)) + " ELSE 0 END", id="cases"),
    ],
)
def test_an_expression_of_very_many_operators_is_refused(tmp_path: Path, term: str) -> None:
    with pytest.raises(InputError, match=r"nests too deep, with [\d,]+ operators.*`column in \(1, 2, 3\)`") as caught:
        labels(texts(tmp_path, f'label = "{term}"', "a,1,1", "b,0,2"))
    assert len(str(caught.value)) < 1000


def test_a_long_list_of_values_is_no_nesting(tmp_path: Path) -> None:
    numbers = ", ".join(str(k) for k in range(-10_000, 2))
    assert labels(texts(tmp_path, f'label = "w IN ({numbers})"', "a,1,1", "b,0,2")) == [1, 0]


@pytest.mark.parametrize("name", ["click rate", "order", "a.b", "Len", "Agg"])
def test_a_column_of_any_name_in_double_quotes(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path, SCHEMA.format(f"label = '\"{name}\"'"), **{"a.csv": f'u,click,"{name}"\na,1,0\nb,0,1\n'})
    assert labels(folder) == [0, 1]


@pytest.mark.parametrize("column", ["1,0,,1", "1.0,0.0,,1", "true,false,,true"])
def test_a_filter_may_be_a_column_of_0_and_1(tmp_path: Path, column: str) -> None:
    lines = [f"{'abcd'[n]},{n % 2},{ok}" for n, ok in enumerate(column.split(","))]
    assert labels(texts(tmp_path, 'label = "v"\nfilter = "w"', *lines)) == [0, 1]


def test_a_filter_of_other_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)filter 'w': a value cannot be used.*row 2.*found: '2'"):
        labels(texts(tmp_path, 'label = "v"\nfilter = "w"', "a,1,1", "b,0,2"))


def test_names_of_values_are_no_kinds_of_nodes() -> None:
    assert columns_of("CONCAT_WS('Len', u, v) = 'Agg'", "label") == ["u", "v"]


def test_a_filter_that_no_row_passes_is_told_of(tmp_path: Path) -> None:
    lines = ["a,1,1", "b,0,3"]
    with pytest.raises(InputError, match=r"(?s)no row passes the filter.*found: 'w > 3'\n  fix: correct filter"):
        describe(open_source(str(texts(tmp_path, 'label = "v"\nfilter = "w > 3"', *lines))))
    assert describe(open_source(str(texts(tmp_path, 'label = "v"\nfilter = "w > 2"', *lines)))).rows == 1
