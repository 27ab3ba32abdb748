"""A sample of Taobao's user behaviour: edges by day, user and item features.

There are no impressions without a click, so the label is "more than a click" (collect, cart or buy);
the last two of ten days validate and test. `taobao-history` adds the items that the user met on earlier days.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.frames import Reading
from amtl_export.data.named.files import find, joined, side_rows, side_table, table
from amtl_export.data.schema import Schema, TimeSplit
from amtl_export.data.source import Source

_EDGE = ("user_id", "item_id", "type", "date")
_ITEM = ("item_id", "cate_1", "cate", "brand", "price")
_USER = ("user_id", "gender", "age_level", "education", "career", "income", "stage")
_LONGEST = 20


def _schema() -> Schema:
    def plain(name: str) -> FieldSchema:
        return FieldSchema(name=name, kind="categorical", governed=False, missing=("-1",))

    return Schema(
        label="type > 1",
        group="user_id",
        split=TimeSplit(rule="time", column="date", valid_from=20190618, test_from=20190619),
        fields=(
            FieldSchema(name="user_id", kind="categorical", type="int64"),
            FieldSchema(name="item_id", kind="categorical", type="int64"),
            FieldSchema(name="cate", kind="categorical"),
            FieldSchema(name="brand", kind="categorical"),
            plain("cate_1"),
            *(plain(name) for name in ("gender", "age_level", "education", "career")),
            FieldSchema(name="stage", kind="multi-valued", separator=",", governed=False, missing=("-1",)),
            FieldSchema(name="price", kind="numeric", transform="log1p"),
            FieldSchema(name="income", kind="numeric", transform="log1p", missing=("-1",)),
        ),
    )


def source(folder: Path) -> Source:
    """`ecomm_edge_train.txt`, `ecomm_item_feature.txt`, `ecomm_user_feature.txt`."""
    edges = find(folder, "ecomm_edge_train.txt")
    return joined("taobao", folder, edges, _rows(folder, edges), _schema())


def with_history(folder: Path) -> Source:
    """The same rows with a sequence: what the user met on earlier days, the last first, 20 items at most."""
    edges = find(folder, "ecomm_edge_train.txt")
    rows = _rows(folder, edges)
    frame = rows.frame.join(_earlier(edges), on=("user_id", "date"), how="left", maintain_order="left")
    schema = _schema()
    history = FieldSchema(name="history", kind="sequence", of="item_id", type="int64", max_length=_LONGEST)
    schema = schema.model_copy(update={"fields": (*schema.fields, history)})
    return joined("taobao-history", folder, edges, rows._replace(frame=frame), schema)


def _rows(folder: Path, edges: Path) -> Reading:
    items = side_table(find(folder, "ecomm_item_feature.txt"), "\t", _ITEM)
    users = side_table(find(folder, "ecomm_user_feature.txt"), "\t", _USER)
    rows = table(edges, "\t", _EDGE)
    frame = rows.frame.join(users, on="user_id", how="left", maintain_order="left")
    return rows._replace(frame=frame.join(items, on="item_id", how="left", maintain_order="left"))


def _earlier(edges: Path) -> pl.LazyFrame:
    """`user_id`, `date`, `history`: the user's items before each of their days, the last of the file first."""
    met = side_rows(edges, "\t", _EDGE).with_row_index("place")
    days = met.select("user_id", "date").unique()
    pairs = days.join(met, on="user_id", suffix="_met").filter(pl.col("date_met") < pl.col("date"))
    lists = pairs.sort("place", descending=True).group_by("user_id", "date", maintain_order=True)
    return lists.agg(history=pl.col("item_id").head(_LONGEST)).lazy()
