"""Value → id, with counts: id 0 out of vocabulary, id 1 missing, then values by falling count, which is the joint
one of all fields that share the values: counts need not fall with the id.

A multi-valued field has one id more, the last: padding. Its row is zero and its dims 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.data.value_index import ValueIndex
from amtl_export.errors import InputError, os_errors

OOV = 0
MISSING = 1
FIRST_VALUE = 2

ValueType = Literal["string", "int64"]

#: Bytes of a file's name, of the 255 that file systems allow.
_LONGEST = 250


@dataclass(frozen=True)
class Vocabulary:
    """The values of one field, fixed after training.

    Attributes:
        field: the field's name.
        values: the known values in id order, from id 2 on; String or Int64.
        counts: int64 `[V]`, training occurrences of every id in this field, reserved ids included.
        padded: whether the last id is padding (multi-valued fields).
        unknown: id that values which are not among these have: 0, or that of one of the values.
        index: of the values; vocabularies of the same values may share one.
    """

    field: str
    values: pl.Series
    counts: npt.NDArray[np.int64]
    padded: bool = False
    unknown: int = OOV
    index: ValueIndex = dataclasses.field(default=None, repr=False, compare=False)  # type: ignore[assignment] # made below

    def __post_init__(self) -> None:
        if self.index is None or self.index.values is not self.values:
            object.__setattr__(self, "index", ValueIndex(self.values))

    @property
    def size(self) -> int:
        """V, reserved ids included."""
        return len(self.counts)

    @property
    def padding(self) -> int | None:
        """The padding id, or None."""
        return self.size - 1 if self.padded else None

    @property
    def type(self) -> ValueType:
        """How values are stored."""
        return "int64" if self.values.dtype == pl.Int64 else "string"

    def encode(self, values: pl.Series) -> npt.NDArray[np.int32]:
        """Ids of `values`: null becomes 1 (missing), an unknown value `unknown`.

        The first call builds an index of the values; what the others cost grows with theirs alone.
        """
        ids = self.index.positions(values.cast(self.values.dtype)) + np.int32(FIRST_VALUE)
        ids[ids < FIRST_VALUE] = self.unknown
        if values.null_count():
            ids[values.is_null().to_numpy()] = MISSING
        return ids

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over field, type, values in id order, counts, and the id of unknown values if it is not 0."""
        digest = hashlib.sha256(f"{self.field}\0{self.type}\0{self.padded}\0".encode())
        if self.unknown != OOV:
            digest.update(f"{self.unknown}\0".encode())
        digest.update(self.counts.astype("<i8").tobytes())
        if self.type == "int64":
            digest.update(self.values.to_numpy().astype("<i8").tobytes())
        else:
            for value in self.values:
                encoded = value.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def to_frame(self) -> pl.DataFrame:
        """Columns `id` Int64, `kind`, `value`, `count` Int64.

        A kind is oov, missing, value, padding, or unknown: a value that those which are not known are read as.
        """
        none = pl.Series([None, None], dtype=self.values.dtype)
        tail = pl.Series([None] * self.padded, dtype=self.values.dtype)
        return pl.DataFrame(
            {
                "id": np.arange(self.size, dtype=np.int64),
                "kind": _kinds(len(self.values), self.padded, self.unknown),
                "value": pl.concat([none, self.values.alias(""), tail]),
                "count": self.counts,
            }
        )

    @classmethod
    def from_frame(cls, field: str, frame: pl.DataFrame, where: Path | str) -> Vocabulary:
        """Check and take over what `to_frame` gave.

        Raises:
            InputError: a column is missing or of another type, ids are not 0..V-1, or a value occurs twice.
        """
        lacking = {"id", "kind", "value", "count"} - set(frame.columns)
        if lacking:
            raise InputError("a vocabulary lacks columns", where=where, found=sorted(lacking))
        whole, texts = [pl.Int64], [pl.String]
        allowed: dict[str, list[Any]] = {"id": whole, "kind": texts, "value": [*texts, *whole], "count": whole}
        for name, types in allowed.items():
            if frame.schema[name] not in types or (name != "value" and frame[name].null_count()):
                raise InputError(f"a vocabulary's {name} cannot be read", where=where, found=frame.schema[name])
        if (negative := frame["count"].filter(frame["count"] < 0)).len():
            raise InputError("a vocabulary counts less than none", where=where, found=negative[0])
        ids = frame["id"].to_numpy()
        if not np.array_equal(ids, np.arange(len(frame))):
            raise InputError("vocabulary ids are not 0, 1, 2, … in order", where=where, found=ids[:8].tolist())
        kinds = frame["kind"]
        padded = kinds[-1] == "padding" if len(kinds) else False
        unknown = (kinds == "unknown").arg_max() if (kinds == "unknown").any() else OOV
        assert unknown is not None
        if not kinds.equals(_kinds(len(kinds) - FIRST_VALUE - padded, padded, unknown)):
            raise InputError(
                "reserved ids of a vocabulary are out of place", where=where, found=kinds.head(3).to_list()
            )
        values = frame["value"].slice(FIRST_VALUE, len(frame) - FIRST_VALUE - padded)
        if values.null_count() or values.n_unique() != len(values):
            raise InputError("a vocabulary has a value twice or an empty one", where=where)
        return cls(field, values, frame["count"].to_numpy().astype(np.int64), padded, unknown)

    def write(self, path: Path, **columns: Any) -> None:
        """Write Parquet; `columns` are further columns of length V (a bundle adds `dims`)."""
        frame = self.to_frame()
        if columns:
            frame = frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
        write_frame(frame, path)

    @classmethod
    def read(cls, path: Path, field: str) -> Vocabulary:
        """Read what `write` wrote.

        Raises:
            InputError: missing, truncated, or not a vocabulary.
        """
        return cls.from_frame(field, read_parquet(path), path)


def _kinds(values: int, padded: bool, unknown: int) -> pl.Series:
    """The kind of every id, in order."""
    every = pl.repeat("value", max(values, 0), dtype=pl.String, eager=True)
    if FIRST_VALUE <= unknown < FIRST_VALUE + len(every):
        every = every.scatter(unknown - FIRST_VALUE, "unknown")
    return pl.concat([pl.Series(["oov", "missing"]), every, pl.Series(["padding"] * padded, dtype=pl.String)])


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write Parquet."""
    buffer = io.BytesIO()  # so that a full disk is an OSError that names the file
    frame.write_parquet(buffer, compression="zstd")
    path.write_bytes(buffer.getbuffer())


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file of our own.

    Raises:
        InputError: the file is missing, truncated or not Parquet.
    """
    with unreadable(path):
        return pl.read_parquet(path.absolute(), glob=False)  # Polars knows "~" and "*"


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Say of what Polars raises inside the block that a file cannot be read.

    Raises:
        InputError: the file is missing, truncated or not Parquet.
    """
    if not path.is_file():
        raise InputError("a file is missing", where=path, fix="make the folder anew")
    with os_errors("reading", path), path.open("rb"):  # of a file that may not be read Polars says no more
        pass
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(
            "a file is truncated or not Parquet",
            where=path,
            found=next(iter(str(error).splitlines()), type(error).__name__),
            fix="make the folder anew",
        ) from None


def vocabulary_file(field: str) -> str:
    """Where a field's file is in the folder of a run or a bundle: `vocab/<field>.parquet`.

    ASCII letters, digits, `_`, `-` and `.` stand for themselves, every other byte of UTF-8 and a leading dot as `%` and
    two hexadecimal digits: no name of a field leads elsewhere.

    Raises:
        InputError: a name that is too long for a file.
    """
    name = quote(field, safe="", errors="surrogatepass").replace("~", "%7E")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    file = f"{name}.parquet"
    if len(file) > _LONGEST:
        raise InputError(
            "the name of a field is too long for a file",
            where=field if len(field) < 100 else f"{field[:100]}…",
            found=f"{len(file)} bytes, {file[:20]}…",
            allowed=f"{_LONGEST} bytes",
            fix="give the field, or the module that holds its table, a shorter name",
        )
    return f"vocab/{file}"


def write_vocabularies(folder: Path, vocabularies: dict[str, Vocabulary]) -> None:
    """Write the file of every field, `vocabulary_file`."""
    (folder / "vocab").mkdir(exist_ok=True)
    for name, vocabulary in vocabularies.items():
        vocabulary.write(folder / vocabulary_file(name))


def read_vocabularies(folder: Path, fields: list[str]) -> dict[str, Vocabulary]:
    """Read the file of every field named, `vocabulary_file`."""
    return {name: Vocabulary.read(folder / vocabulary_file(name), name) for name in fields}


def vocabulary_hash(vocabularies: dict[str, Vocabulary]) -> str:
    """One hex SHA-256 over all vocabularies, in field order."""
    return hashlib.sha256("".join(v.digest for v in vocabularies.values()).encode()).hexdigest()
