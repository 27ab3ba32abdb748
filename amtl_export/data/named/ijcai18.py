"""IJCAI-18 (Alimama sponsored search) in its 22-column form: Label, I1..I13, C1..C8.

`tr_2w.csv` trains (every tenth row validates); `te_8k.csv` tests, less the rows that also occur in
`tr_2w.csv`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from amtl_export.data.named.files import find, joined
from amtl_export.data.schema import ColumnSplit, FieldSchema, FileFormat, Schema
from amtl_export.data.source import ROW, Source, scan_text

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
    return Schema(label="Label", split=ColumnSplit(rule="column", column="split"), fields=(*categorical, *numeric))


def source(folder: Path) -> Source:
    """`tr_2w.csv` and `te_8k.csv`."""
    train_file, test_file = find(folder, "tr_2w.csv"), find(folder, "te_8k.csv")
    columns = ["Label", *_NUMERIC, *_CATEGORICAL]
    train = scan_text(train_file, ",", FileFormat()).select(ROW, *columns)
    test = scan_text(test_file, ",", FileFormat()).select(ROW, *columns)
    test = test.join(train.select(columns), on=columns, how="anti", nulls_equal=True, maintain_order="left")
    split = pl.when(pl.col(ROW) % 10 == 9).then(pl.lit("valid")).otherwise(pl.lit("train"))
    frame = pl.concat([train.with_columns(split.alias("split")), test.with_columns(pl.lit("test").alias("split"))])
    return joined("ijcai18", folder, train_file, frame, _schema())
