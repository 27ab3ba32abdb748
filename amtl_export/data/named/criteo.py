"""Criteo's display advertising challenge: label, 13 numeric, 26 categorical, tab separated."""

from __future__ import annotations

from pathlib import Path

from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.named.files import find, joined, table
from amtl_export.data.schema import Schema
from amtl_export.data.source import Source

_NUMERIC = tuple(f"I{i}" for i in range(1, 14))
_CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))


def source(folder: Path) -> Source:
    """`train.txt` as published, or `train_examples.txt`, its head."""
    file = find(folder, "train.txt", "train_examples.txt")
    categorical = [FieldSchema(name=name, kind="categorical") for name in _CATEGORICAL]
    numeric = [FieldSchema(name=name, kind="numeric", transform="log1p") for name in _NUMERIC]
    schema = Schema(label="label", fields=(*categorical, *numeric))
    return joined("criteo", folder, file, table(file, "\t", ("label", *_NUMERIC, *_CATEGORICAL)), schema)
