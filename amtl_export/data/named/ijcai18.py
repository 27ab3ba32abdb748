"""IJCAI-18 (Alimama sponsored search), in either of its two forms.

- As published: `round1_ijcai_18_train_20180301.txt`, 27 columns separated by blanks, seven days; the
  sixth day validates, the seventh tests.
- The 22-column form, Label, I1..I13, C1..C8: `tr_2w.csv` trains (every tenth row validates),
  `te_8k.csv` tests, less the rows that also occur in `tr_2w.csv`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.file_format import FileFormat
from amtl_export.data.frames import ROW, Reading
from amtl_export.data.named.files import find, joined
from amtl_export.data.schema import ColumnSplit, Schema, TimeSplit
from amtl_export.data.source import Source
from amtl_export.data.text_files import read_text

_CATEGORICAL = {
    "C1": "item", "C2": "category", "C3": "brand", "C4": "city",
    "C5": "user", "C6": "gender", "C7": "occupation", "C8": "shop",
}  # fmt: skip
_GOVERNED = {"C1", "C3", "C5", "C8"}
_NUMERIC = tuple(f"I{i}" for i in range(1, 14))


def _schema() -> Schema:
    categorical = [
        FieldSchema(name=name, column=column, kind="categorical", governed=column in _GOVERNED, missing=("-1",))
        for column, name in _CATEGORICAL.items()
    ]
    numeric = [FieldSchema(name=column, kind="numeric") for column in _NUMERIC]
    split = ColumnSplit(rule="column", column="split")
    return Schema(label="Label", group="user", split=split, fields=(*categorical, *numeric))


PUBLISHED = "round1_ijcai_18_train_20180301.txt"
_PUBLISHED_GOVERNED = ("item_id", "item_brand_id", "user_id", "shop_id")
_PUBLISHED_PLAIN = (
    "item_city_id", "item_price_level", "item_sales_level", "item_collected_level", "item_pv_level",
    "user_gender_id", "user_age_level", "user_occupation_id", "user_star_level", "context_page_id",
    "shop_review_num_level", "shop_star_level",
)  # fmt: skip
_PUBLISHED_NUMERIC = (
    "shop_review_positive_rate", "shop_score_service", "shop_score_delivery", "shop_score_description",
)  # fmt: skip
_FIRST_DAY = 1_537_200_000  # 2018-09-18 00:00 in China, seconds since 1970
_DAY = 86_400


def _published_schema() -> Schema:
    def categorical(name: str, governed: bool) -> FieldSchema:
        return FieldSchema(name=name, kind="categorical", governed=governed, missing=("-1",))

    many = ("item_category_list", "item_property_list")
    return Schema(
        label="is_trade",
        group="user_id",
        split=TimeSplit(
            rule="time",
            column="context_timestamp",
            valid_from=_FIRST_DAY + 5 * _DAY,
            test_from=_FIRST_DAY + 6 * _DAY,
        ),
        fields=(
            *(categorical(name, True) for name in _PUBLISHED_GOVERNED),
            *(categorical(name, False) for name in _PUBLISHED_PLAIN),
            *(FieldSchema(name=name, kind="multi-valued", separator=";", governed=False) for name in many),
            *(FieldSchema(name=name, kind="numeric", missing=("-1",)) for name in _PUBLISHED_NUMERIC),
        ),
    )


def source(folder: Path) -> Source:
    """The published file if it is there, else `tr_2w.csv` and `te_8k.csv`."""
    if (folder / PUBLISHED).is_file():
        file = folder / PUBLISHED
        return joined("ijcai18", folder, file, read_text(file, " ", FileFormat(quote="")), _published_schema())
    train_file, test_file = find(folder, "tr_2w.csv", PUBLISHED), find(folder, "te_8k.csv")
    columns = ["Label", *_NUMERIC, *_CATEGORICAL]
    train, test = (_whole(file, columns) for file in (train_file, test_file))
    test = test.join(train.select(columns), on=columns, how="anti", nulls_equal=True, maintain_order="left")
    split = pl.when(pl.col(ROW) % 10 == 9).then(pl.lit("valid")).otherwise(pl.lit("train"))
    frame = pl.concat([train.with_columns(split.alias("split")), test.with_columns(pl.lit("test").alias("split"))])
    return joined("ijcai18", folder, train_file, Reading(frame), _schema())


def _whole(file: Path, columns: list[str]) -> pl.LazyFrame:
    reading = read_text(file, ",", FileFormat())
    reading.check().finish()
    return reading.frame.select(ROW, *columns)
