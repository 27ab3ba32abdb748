"""`encoder/` of a packaged version: a bundle's vocabularies for `encoder.py`, and golden rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.raw import raw_fields, unknown_value
from amtl_export.data.encode import padded_ids
from amtl_export.data.schema import FieldSchema
from amtl_export.files import write_json
from amtl_export.graph.raw_features import RawField
from amtl_export.spec import TensorSpec


def write_encoder(bundle: Bundle, folder: Path) -> None:
    """Write `encoder.py`, `encoder.json`, `<field>.jsonl` and `golden.json` into a folder that is made.

    Raises:
        InputError: the vocabularies are not those of the bundle's ids.
    """
    folder.mkdir()
    fields = raw_fields(bundle)
    schemas = {field.name: field for field in bundle.run_schema.fields}
    files = {field.shares: f"{field.shares}.jsonl" for field in fields.values()}
    for owner, file in files.items():
        _write_vocabulary(fields[owner], folder / file)
    description = {
        "vocabulary_hash": bundle.signature.vocabulary_hash,
        "inputs": [_described(spec) for spec in bundle.inputs],
        "fields": {
            name: {
                "type": field.vocabulary.type,
                "file": files[field.shares],
                "missing": list(field.missing),
                "padded": field.vocabulary.padded,
                "padding": field.vocabulary.padding,
                "max_length": schemas[name].max_length,
            }
            for name, field in fields.items()
        },
    }
    write_json(folder / "encoder.json", description)
    golden = _Golden(bundle.inputs, fields, schemas)
    cases = [{"row": row, "inputs": golden.encoded(row)} for row in golden.rows()]
    write_json(folder / "golden.json", {"vocabulary_hash": bundle.signature.vocabulary_hash, "cases": cases})
    shutil.copyfile(Path(__file__).with_name("encoder.py"), folder / "encoder.py")


def _described(spec: TensorSpec) -> dict[str, Any]:
    kind = "numeric" if spec.source == "numeric" else "ids" if spec.packed else "list"
    datatype = "FP32" if kind == "numeric" else "INT64"
    return {"name": spec.name, "kind": kind, "datatype": datatype, "fields": list(spec.fields), "request": spec.request}


def _write_vocabulary(field: RawField, path: Path) -> None:
    frame = field.vocabulary.to_frame().select("value", "count")
    with path.open("w", encoding="utf-8") as file:
        for line in frame.iter_rows():
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class _Golden:
    """Rows that try each field's values, and what the encoder of the training makes of them."""

    inputs: Sequence[TensorSpec]
    fields: Mapping[str, RawField]
    schemas: Mapping[str, FieldSchema]

    def rows(self) -> list[dict[str, Any]]:
        """Each of a field's cases in some row."""
        cases = {name: self._cases(schema) for name, schema in self.schemas.items()}
        longest = max(map(len, cases.values()))
        return [{name: values[i % len(values)] for name, values in cases.items()} for i in range(longest)]

    def _cases(self, schema: FieldSchema) -> list[Any]:
        if schema.kind == "numeric":
            return [0.0, -1.5, 1e6, None]
        field = self.fields[schema.name]
        known = [*field.vocabulary.values.head(2), *field.vocabulary.values.tail(2)]
        single = [None, *field.missing, unknown_value(field), *known]
        if schema.kind == "categorical":
            return single
        return [None, [], *([value] for value in single), single, single * schema.max_length]

    def encoded(self, row: dict[str, Any]) -> dict[str, list[list[Any]]]:
        """Input → its only row; null is a missing number."""
        return {spec.name: [self._row(spec, row)] for spec in self.inputs}

    def _row(self, spec: TensorSpec, row: dict[str, Any]) -> list[Any]:
        if spec.source == "numeric":
            return [None if row[name] is None else float(np.float32(row[name])) for name in spec.fields]
        if spec.packed:
            return [self._id(self.fields[name], row[name]) for name in spec.fields]
        vocabulary, missing = self.fields[spec.name].vocabulary, self.fields[spec.name].missing
        present = [value for value in row[spec.name] or [] if value not in (None, *missing)]
        present = present[: self.schemas[spec.name].max_length]
        lists = pl.Series([present], dtype=pl.List(vocabulary.values.dtype))
        return [int(i) for i in padded_ids(lists, vocabulary, max(len(present), 1))[0]]

    @staticmethod
    def _id(field: RawField, value: Any) -> int:
        present = None if value in field.missing else value
        return int(field.vocabulary.encode(pl.Series([present], dtype=field.vocabulary.values.dtype))[0])
