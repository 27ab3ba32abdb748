"""Values to ids, where requests are encoded_rows; needs Python alone, and the files beside it.

    encoder = Encoder("models/ctr/1/encoder")
    encoder.encode([{"user": 17, "tags": ["a", "b"], "price": 3.5}])     # input -> rows of ids or numbers
    encoder.request([...])                                               # a request, ready for json.dumps

It is short so that it can be written again in another language: `encoder.json` says what each input is encoded_rows of,
`<field>.jsonl` has a line `[value, count]` for each id from 0 on, and `golden.json` rows with what they must become.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OOV, MISSING = 0, 1  # ids: a value not known, no value

Row = Mapping[str, Any]


class Encoder:
    """The vocabularies of one version of a model.

    Attributes:
        vocabulary_hash: of the vocabularies; a server refuses ids of others.

    Raises:
        ValueError: the files are not those that the hash was taken of.
        OSError: a file is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        description = json.loads((Path(folder) / "encoder.json").read_text(encoding="utf-8"))
        self.vocabulary_hash: str = description["vocabulary_hash"]
        self._inputs: list[dict[str, Any]] = description["inputs"]
        self._fields: dict[str, dict[str, Any]] = description["fields"]
        files = sorted({field["file"] for field in self._fields.values()})
        lines = {file: _read(Path(folder) / file) for file in files}
        found = hashlib.sha256("".join(_digest(n, f, lines[f["file"]]) for n, f in self._fields.items()).encode())
        if found.hexdigest() != self.vocabulary_hash:
            raise ValueError(
                f"{folder}: files of hash {found.hexdigest()}, and not {self.vocabulary_hash}: copy it again"
            )
        self._ids = {
            file: {value: i for i, (value, _) in enumerate(lines_) if value is not None}
            for file, lines_ in lines.items()
        }

    def encode(self, rows: Sequence[Row]) -> dict[str, list[list[Any]]]:
        """Input → a list for each row: ids, or numbers (NaN is a missing one).

        A value of a row is a text or a whole number as the field's type says, a list of them for a multi-valued field,
        a number for a numeric one; None, or no such key, is missing. Inputs of the request have one row.

        Raises:
            ValueError: a value is of another kind; rows differ in an input of the request; a row has an unknown field.
        """
        known = {name for spec in self._inputs for name in spec["fields"]}
        for i, row in enumerate(rows):
            if unknown := sorted(set(row) - known):
                raise ValueError(f"row {i}: unknown fields {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return {spec["name"]: self._input(spec, rows) for spec in self._inputs}

    def request(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The rows as a request of the Open Inference Protocol v2, which says the hash of the vocabularies.

        A missing number is NaN, which Python writes into JSON and Triton reads, though JSON has no such thing.

        Raises:
            ValueError: as `encode`.
        """
        inputs, encoded = [], self.encode(rows)
        for spec in self._inputs:
            values = encoded[spec["name"]]
            data = [value for row in values for value in row]
            shape = [len(values), len(values[0]) if values else len(spec["fields"])]
            inputs.append({"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": data})
        return {"parameters": {"vocabulary_hash": self.vocabulary_hash}, "inputs": inputs}

    def _input(self, spec: dict[str, Any], rows: Sequence[Row]) -> list[list[Any]]:
        encoded_rows = [self._row(spec, row, i) for i, row in enumerate(rows)]
        if spec["request"]:
            if any(row != encoded_rows[0] for row in encoded_rows):
                raise ValueError(f"{spec['name']}: rows of one request differ in {', '.join(spec['fields'])}")
            encoded_rows = encoded_rows[:1]
        if spec["kind"] == "list":
            padding, width = self._fields[spec["fields"][0]]["padding"], max(map(len, encoded_rows), default=1)
            return [row + [padding] * (width - len(row)) for row in encoded_rows]
        return encoded_rows

    def _row(self, spec: dict[str, Any], row: Row, i: int) -> list[Any]:
        if spec["kind"] == "list":
            (name,) = spec["fields"]
            return self._list(name, row.get(name), i)
        take = self._id if spec["kind"] == "ids" else _number
        return [take(name, row.get(name), i) for name in spec["fields"]]

    def _id(self, name: str, value: Any, i: int) -> int:
        field = self._fields[name]
        if value is None:
            return MISSING
        if type(value) is not (int if field["type"] == "int64" else str):
            raise ValueError(f"row {i}: {name} takes {field['type']}, found {value!r}")
        return MISSING if value in field["missing"] else self._ids[field["file"]].get(value, OOV)

    def _list(self, name: str, values: Any, i: int) -> list[int]:
        if not isinstance(values, list | tuple | None):
            raise ValueError(f"row {i}: {name} takes a list, found {values!r}")
        ids = [found for value in values or () if (found := self._id(name, value, i)) != MISSING]
        return ids[: self._fields[name]["max_length"]] or [MISSING]


def _number(name: str, value: Any, i: int) -> float:
    if value is None:
        return float("nan")
    if type(value) not in (int, float) or value in (float("inf"), float("-inf")):
        raise ValueError(f"row {i}: {name} takes a finite number, found {value!r}")
    return float(value)


def _read(file: Path) -> list[list[Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _digest(name: str, field: Mapping[str, Any], lines: Sequence[Sequence[Any]]) -> str:
    """Of a field: SHA-256 of its name, type, whether its last id is padding, counts (int64), values."""
    digest = hashlib.sha256(f"{name}\0{field['type']}\0{field['padded']}\0".encode())
    for _, count in lines:
        digest.update(count.to_bytes(8, "little", signed=True))
    for value, _ in lines:
        if isinstance(value, int):
            digest.update(value.to_bytes(8, "little", signed=True))
        elif value is not None:
            digest.update(len(value.encode()).to_bytes(8, "little") + value.encode())
    return digest.hexdigest()
