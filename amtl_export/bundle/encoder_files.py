"""`encoder/` of a packaged version: a bundle's vocabularies for `encoder.py`, and golden rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.derived_values import examples
from amtl_export.bundle.raw import as_column, encoded_columns, raw_fields, unknown_value
from amtl_export.data.normalise import Normalisation
from amtl_export.files import write_json
from amtl_export.graph.raw_field import RawField
from amtl_export.spec import TensorSpec


def write_encoder(bundle: Bundle, folder: Path) -> None:
    """Write `encoder.py`, `encoder.json`, `<field>.jsonl` and `golden.json` into a folder that is made.

    Raises:
        InputError: the vocabularies are not those of the bundle's ids.
    """
    folder.mkdir()
    fields = raw_fields(bundle)
    specs = bundle.normalisations()
    files = {
        field.name: f"{field.of or field.name}.jsonl" for field in bundle.run_schema.embedded
    }  # counts are there too
    for name, file in files.items():
        if file == f"{name}.jsonl":
            _write_vocabulary(fields[name], folder / file)
    description = {
        "vocabulary_hash": bundle.signature.vocabulary_hash,
        "inputs": [_described(spec) for spec in bundle.inputs],
        "fields": {
            name: {
                "type": field.vocabulary.type,
                "file": files[name],
                "padded": field.vocabulary.padded,
                "padding": field.vocabulary.padding,
                "unknown": field.vocabulary.unknown,
            }
            for name, field in fields.items()
        },
        "normalisation": [spec.model_dump(mode="json") for spec in specs.values()],
    }
    write_json(folder / "encoder.json", description)
    golden = _Golden(bundle.inputs, fields, specs)
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
    """Rows that try each field's values, and what training's reader makes of them."""

    inputs: Sequence[TensorSpec]
    fields: Mapping[str, RawField]
    specs: Mapping[str, Normalisation]

    def rows(self) -> list[dict[str, Any]]:
        """Each of a field's cases in some row."""
        cases = {name: self._cases(spec) for name, spec in self.specs.items()}
        longest = max(map(len, cases.values()))
        return [{name: values[i % len(values)] for name, values in cases.items()} for i in range(longest)]

    def _cases(self, spec: Normalisation) -> list[Any]:
        if spec.field not in self.fields:
            return [0.0, -1.5, 1e6, 0.1, None, *spec.missing_numbers, *map(int, spec.missing_numbers)]
        field = self.fields[spec.field]
        if spec.derived and not spec.buckets:
            return [None, *examples(spec)]
        known = examples(spec) if spec.buckets else [*field.vocabulary.values.head(2), *field.vocabulary.values.tail(2)]
        missing = spec.missing_texts if spec.type == "string" else spec.missing_whole
        texts = [f"  {value} " for value in known if spec.trim]
        single = [None, *missing, unknown_value(field), *known]
        if not spec.many:
            return [*single, *texts]
        return [None, [], *([value] for value in single), single, single * (spec.max_length or 1), texts]

    def encoded(self, row: dict[str, Any]) -> dict[str, list[list[Any]]]:
        """Input → its only row; null is a missing number."""
        columns = {name: as_column([row[name]], spec) for name, spec in self.specs.items()}
        ids = encoded_columns(columns, self.inputs, self.fields, self.specs)
        return {name: [[None if x != x else x for x in values[0].tolist()]] for name, values in ids.items()}
