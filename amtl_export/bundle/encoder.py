"""Raw values to ids, where requests are made; needs Python alone, and the files beside it.

    encoder = Encoder("models/ctr/1/encoder")
    encoder.encode([{"user": 17, "tags": ["a", "b"], "price": 3.5}])     # input -> rows of ids or numbers
    encoder.request([...])                                               # a request, ready for json.dumps

It is short so that it can be written again in another language. `encoder.json` says what each input is encoded of and,
under `normalisation`, what each field does to a raw value: what training did (`data/normalise.py` of amtl-export).
`<field>.jsonl` has a line `[value, count]` for each id from 0 on, `golden.json` rows with what training made of them.
"""

from __future__ import annotations

import bisect
import datetime
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MISSING = 1  # the id of no value

BLANKS = " \t\r\n\v\f"  # around the text of a number
LARGEST = (2 - 2**-23) * 2.0**127  # of float32
ISO = (  # the date, the hour
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
NO_NUMBER = -(2**63)  # the least int64 says "missing"

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
        self._values = {spec["field"]: Normaliser(spec) for spec in description["normalisation"]}
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

        A value of a row is what the data had: a text, a whole number, a truth value or a number, for a multi-valued
        field a list of them or one text with separators; None, or no such key, is missing. Inputs of the request have
        one row.

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
        try:
            if spec["kind"] == "list":
                (name,) = spec["fields"]
                return [self._id(name, value) for value in self._values[name].many(row.get(name))] or [MISSING]
            found = [self._values[name].one(row.get(name)) for name in spec["fields"]]
        except ValueError as error:
            raise ValueError(f"row {i}: {error}") from None
        if spec["kind"] == "numeric":
            return [math.nan if value is None else value for value in found]
        return [self._id(name, value) for name, value in zip(spec["fields"], found, strict=True)]

    def _id(self, name: str, value: Any) -> int:
        if value is None:
            return MISSING
        field = self._fields[name]
        known: int = self._ids[field["file"]].get(value, field["unknown"])
        return known


class Normaliser:
    """What one field does to a raw value.

    Args:
        spec: `field`, `type` (string, int64, float32 or time), `trim`, `missing`, `default`, `boundaries`, `part` and
            `unit` (of a time), `buckets`, and for several values `separator` and `max_length`; see `data/normalise.py`
            of amtl-export.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._field, self._type, self._trim = spec["field"], spec["type"], spec["trim"]
        self._separator, self._max_length = spec["separator"], spec["max_length"]
        self._boundaries: list[float] = spec["boundaries"]
        self._part, self._unit, self._buckets = spec["part"], spec["unit"], spec["buckets"]
        self._default: str | int | float | None = spec["default"]
        self._missing = {"", *map(self._trimmed, spec["missing"])}
        found = [self._parsed(text.strip(BLANKS)) for text in spec["missing"]]
        self._missing_numbers = {number for number in found if number is not None}
        if self._type == "int64":
            self._missing_numbers.add(NO_NUMBER)

    def one(self, value: Any) -> str | int | float | None:
        """The value as training had it; if it is missing the default, or None.

        Raises:
            ValueError: it is of another kind.
        """
        found = self._present(value)
        return self._default if found is None else self._made_of(found)

    def _made_of(self, found: str | int | float) -> str | int | float:
        """The field's value of the data's."""
        if self._buckets:
            return zlib.crc32(str(found).encode()) % int(self._buckets)
        if self._unit:
            return _part_of_epoch(int(found) // {"s": 1, "ms": 1000}[self._unit], self._part)
        return bisect.bisect_right(self._boundaries, float(found)) if self._boundaries else found

    def _present(self, value: Any) -> str | int | float | None:
        if isinstance(value, str):
            value = self._trimmed(value)
        if value is None or value != value or (isinstance(value, str) and value in self._missing):
            return None
        if self._type == "time":
            return self._time(value)
        found = self._text(value) if self._type == "string" else self._number(value)
        missing = self._missing if self._type == "string" else self._missing_numbers
        return None if found is None or found in missing else found

    def many(self, values: Any) -> list[str | int | float]:
        """The values that are kept, of a list or of a text with separators.

        Raises:
            ValueError: it is of another kind.
        """
        if isinstance(values, str):
            values = values.split(self._separator)
        if not isinstance(values, list | tuple | None):
            raise ValueError(f"{self._field} takes a list, found {values!r}")
        present = [self._made_of(found) for value in values or () if (found := self._present(value)) is not None]
        return present[: self._max_length] or ([] if self._default is None else [self._default])

    def _trimmed(self, text: str) -> str:
        return " ".join(part for part in text.split(" ") if part) if self._trim else text

    def _text(self, value: Any) -> str:
        if not isinstance(value, str | bool | int):
            raise ValueError(f"{self._field} takes a text or a whole number, found {value!r}")
        return self._trimmed(str(value).lower() if isinstance(value, bool) else str(value))

    def _time(self, value: Any) -> int:
        """The part of an ISO text, as its clock shows it."""
        found = re.fullmatch(ISO, value.strip(BLANKS)) if isinstance(value, str) else None
        try:
            if found is None or (self._part == "hour" and found[2] is None):
                raise ValueError
            date = datetime.date.fromisoformat(found[1])
        except ValueError:
            raise ValueError(f"{self._field} takes a time like 2024-05-01T12:00:00, found {value!r}") from None
        parts = {"hour": int(found[2] or 0), "weekday": date.weekday(), "day": date.day, "month": date.month}
        return parts[self._part]

    def _number(self, value: Any) -> int | float | None:
        """Of a text, or of a number."""
        found: int | float | None
        if isinstance(value, str):
            text = value.strip(BLANKS)
            if self._type == "float32" and text.lower() in ("nan", "+nan", "-nan"):
                return None
            found = self._parsed(text)
        elif self._type == "int64":
            exact = isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
            found = int(value) if exact else value if isinstance(value, int) and not isinstance(value, bool) else None
            found = found if found is not None and -(2**63) <= found < 2**63 else None
        else:
            small = isinstance(value, int | float) and abs(value) <= LARGEST
            found = _float32(float(value)) if small else None
        if found is None:
            kind = "a whole number that int64 holds" if self._type == "int64" else "a finite number that float32 holds"
            raise ValueError(f"{self._field} takes {kind}, found {value!r}")
        return found

    def _parsed(self, text: str) -> int | float | None:
        if self._type == "int64" and re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text):
            whole = int(text.partition(".")[0])
            return whole if -(2**63) <= whole < 2**63 else None
        if self._type == "float32" and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            return _float32(float(text))
        return None


def _part_of_epoch(seconds: int, part: str) -> int:
    """Of seconds since 1970, in UTC; days and months as Howard Hinnant's date algorithms have them."""
    days, second = divmod(seconds, 86400)
    if part == "hour":
        return second // 3600
    if part == "weekday":
        return (days + 3) % 7  # 1970 began on a Thursday
    of_era = (days + 719468) % 146097  # 400 years that begin in March
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    return (month + 2) % 12 + 1 if part == "month" else of_year - (153 * month + 2) // 5 + 1


def _float32(number: float) -> float | None:
    """Rounded to float32; None if that cannot hold it."""
    if not abs(number) <= LARGEST:
        return None
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return float(rounded)


def _read(file: Path) -> list[list[Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _digest(name: str, field: Mapping[str, Any], lines: Sequence[Sequence[Any]]) -> str:
    """Of a field: SHA-256 of its name, type, whether its last id is padding, unknown values' id, counts, values."""
    digest = hashlib.sha256(f"{name}\0{field['type']}\0{field['padded']}\0".encode())
    if field["unknown"]:
        digest.update(f"{field['unknown']}\0".encode())
    for _, count in lines:
        digest.update(count.to_bytes(8, "little", signed=True))
    for value, _ in lines:
        if isinstance(value, int):
            digest.update(value.to_bytes(8, "little", signed=True))
        elif value is not None:
            digest.update(len(value.encode()).to_bytes(8, "little") + value.encode())
    return digest.hexdigest()
