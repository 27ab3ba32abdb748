"""A sample of Taobao's user behaviour: edges by day, user and item features.

There are no impressions without a click, so the label is "more than a click" (collect, cart or buy);
the last two of ten days validate and test.
"""

from __future__ import annotations

from pathlib import Path

from amtl_export.data.named.files import find, joined, side_table, table
from amtl_export.data.schema import FieldSchema, Schema, TimeSplit
from amtl_export.data.source import Source

_ITEM = ("item_id", "cate_1", "cate", "brand", "price")
_USER = ("user_id", "gender", "age_level", "education", "career", "income", "stage")


def _schema() -> Schema:
    def plain(name: str) -> FieldSchema:
        return FieldSchema(name=name, kind="categorical", governed=False, missing=("-1",))

    return Schema(
        label="type > 1",
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
    items = side_table(find(folder, "ecomm_item_feature.txt"), "\t", _ITEM)
    users = side_table(find(folder, "ecomm_user_feature.txt"), "\t", _USER)
    frame = table(edges, "\t", ("user_id", "item_id", "type", "date"))
    frame = frame.join(users, on="user_id", how="left", maintain_order="left")
    frame = frame.join(items, on="item_id", how="left", maintain_order="left")
    return joined("taobao", folder, edges, frame, _schema())
