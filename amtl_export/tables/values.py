"""Value types: how each number of a table is stored, and what is read back.

`fp32` keeps every bit. `fp16` rounds to half precision. `int8` stores row r as `scale[r] · q`, q in -127..127, and
`int4` with q in -7..7: symmetric quantization by row, as in FBGEMM's and PyTorch's quantized embedding tables. A scale
is quantized itself, to two bytes, `unit · quantized[r]` with one unit for the table: the least multiple that reaches
the row's largest magnitude. Integers, so that they can lie beside the row's offset, where a lookup reads anyway:
elsewhere they were one more cache miss.

Layouts hold numbers of int4 two a byte, each as q + 8, so that no byte needs a sign: see `pairs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.scratch import scratch

if TYPE_CHECKING:  # bundles are read without PyTorch
    from amtl_export.freezing.frozen import FrozenModel
    from amtl_export.freezing.table import FrozenEmbedding

ValueType = Literal["fp32", "fp16", "int8", "int4"]
ValueTypeName = Literal["auto", "fp32", "fp16", "int8", "int4"]
VALUE_TYPES: tuple[ValueType, ...] = get_args(ValueType)

#: Tables of fewer floats a row (a wide part) are stored dense and in full: a page number alone is as large.
NARROW = 4

#: Value types with a scale for each row → the largest number that is stored.
SCALED: dict[ValueType, int] = {"int8": 127, "int4": 7}

#: What a number of int4 is more in its byte than it is.
PAIR_ZERO_POINT = 8

_CHUNK = 1 << 18

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Scales:
    """What each row's numbers are multiplied by: `unit · quantized`.

    Attributes:
        quantized: uint16 `[V]`.
        unit: a float32 number, what all of them are multiples of.
    """

    quantized: npt.NDArray[np.uint16]
    unit: float

    def read(self, rows: slice | npt.NDArray[Any]) -> Floats:
        """float32 `[n]` of rows `[n]`."""
        scales: Floats = self.quantized[rows].astype(np.float32) * np.float32(self.unit)
        return scales


@dataclass(frozen=True)
class Stored:
    """Rows in their value type.

    Attributes:
        numbers: float32, float16 or int8 `[V, D]`, zero past dims; int8 of int4 too.
        scales: of the rows; None where nothing is multiplied.
        paired: whether layouts hold two numbers a byte: all are -7..7.
    """

    numbers: Numbers
    scales: Scales | None = None
    paired: bool = False

    @property
    def lossy(self) -> bool:
        """Whether numbers are quantized."""
        return self.numbers.dtype != np.float32

    def read(self, rows: slice | npt.NDArray[Any] = slice(None)) -> Floats:
        """float32 `[n, D]`, all rows or some: what every layout answers, bit for bit."""
        if not self.lossy:
            return self.numbers[rows]
        return dequantize(self.numbers[rows], self.scales, rows)


def pairs(first: Numbers, second: Numbers) -> npt.NDArray[np.uint8]:
    """Numbers -7..7 two a byte: the first ones in the low halves, the second ones in the high halves.

    Args:
        first: int8 of any shape.
        second: as many.
    """
    low, high = ((numbers + PAIR_ZERO_POINT).astype(np.uint8) for numbers in (first, second))
    both: npt.NDArray[np.uint8] = low + 16 * high
    return both


def unpaired(both: npt.NDArray[np.uint8]) -> tuple[Numbers, Numbers]:
    """The first numbers and the second ones of pairs, int8."""
    low, high = ((half.astype(np.int8) - PAIR_ZERO_POINT).astype(np.int8) for half in (both & 15, both >> 4))
    return low, high


def dequantize(numbers: Numbers, scales: Scales | None, rows: slice | npt.NDArray[Any]) -> Floats:
    """Stored numbers `[n, D]` of table rows `[n]` as float32 `[n, D]`."""
    wide: Floats = numbers.astype(np.float32, copy=False)
    return wide if scales is None else wide * scales.read(rows)[:, None]


def stored(rows: Floats, dtype: ValueType, *, unit: float | None = None) -> Stored:
    """Quantize rows to a value type.

    Args:
        rows: float32 `[V, D]`.
        dtype: of the stored numbers.
        unit: of the scales, where rows are only some of a table's; `scale_unit` of their own largest if not given.

    Raises:
        ValueError: a number is not finite, or too large for half precision.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if dtype == "fp32":
        return Stored(rows)
    largest: Floats = scratch((len(rows),))
    for start in range(0, len(rows), _CHUNK):  # bounds the copies
        largest[start : start + _CHUNK] = np.abs(rows[start : start + _CHUNK]).max(axis=1, initial=0)
    check_reach(largest, dtype)
    if dtype == "fp16":
        halves = scratch(rows.shape, np.float16)
        for start in range(0, len(rows), _CHUNK):
            halves[start : start + _CHUNK] = rows[start : start + _CHUNK]
            halves[start : start + _CHUNK] += 0  # what is too small becomes +0, as every zero of a frozen table
        return Stored(halves)
    most = SCALED[dtype]
    scales = _scales(largest, most, scale_unit(float(largest.max(initial=0.0)), dtype) if unit is None else unit)
    numbers = scratch(rows.shape, np.int8)
    for start in range(0, len(rows), _CHUNK):  # bounds the copies
        chunk = np.arange(start, min(start + _CHUNK, len(rows)))
        wide = np.maximum(scales.read(chunk), np.finfo(np.float32).tiny)[:, None]
        numbers[chunk] = np.clip(np.rint(rows[chunk] / wide), -most, most)
    return Stored(numbers, scales, paired=dtype == "int4")


def check_reach(largest: Floats, dtype: ValueType, first: int = 0) -> None:
    """Make sure that a value type reaches rows' largest magnitudes `[n]`, the first of which is of row `first`.

    Raises:
        ValueError: it does not.
    """
    limit = float(np.finfo(np.float16 if dtype == "fp16" else np.float32).max)
    if len(largest) and not largest.max() <= limit:
        row = int(largest.argmax())
        raise ValueError(f"row {first + row} holds {largest[row]:.6g}; {dtype} reaches {limit:.6g}")


def scale_unit(largest: float, dtype: ValueType) -> float:
    """The unit of the scales of a table whose largest magnitude is this; 1 for a type without scales."""
    if dtype not in SCALED:
        return 1.0
    least = float(np.float64(largest) / SCALED[dtype]) / np.iinfo(np.uint16).max
    return float(max(np.nextafter(np.float32(least), np.float32(np.inf)), np.finfo(np.float32).tiny))


def _scales(largest: Floats, most: int, unit: float) -> Scales:
    """Scales that reach each row's largest magnitude at the largest number, `most`; 0 for a row of zeros."""
    factors = np.empty(len(largest), np.uint16)
    for start in range(0, len(largest), _CHUNK):
        factors[start : start + _CHUNK] = np.ceil(largest[start : start + _CHUNK].astype(np.float64) / most / unit)
    return Scales(factors, unit)


def value_type(frozen: FrozenEmbedding, dtype: ValueType) -> ValueType:
    """The value type of one table of a model that is stored as `dtype`."""
    return dtype if frozen.rows.shape[1] >= NARROW else "fp32"


def value_types(frozen: FrozenModel, dtype: ValueType) -> dict[str, ValueType]:
    """Path of each table → its value type in a model that is stored as `dtype`."""
    return {path: value_type(table, dtype) for path, table in frozen.tables.items()}


def quantize(frozen: FrozenModel, dtypes: Mapping[str, ValueType]) -> dict[str, Stored]:
    """Path of each table → its rows as they are stored.

    Args:
        frozen: the model.
        dtypes: path of each table → its value type.

    Raises:
        InputError: a number is too large for its value type.
    """
    rows = {}
    for path, table in frozen.tables.items():
        with naming_table(path):
            rows[path] = stored(table.rows.cpu().numpy(), dtypes[path])
    return rows


@contextmanager
def naming_table(path: str) -> Iterator[None]:
    """Say of which table it is that a number inside the block is too large for its value type.

    Raises:
        InputError: one is.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(
            "a table cannot be stored so",
            where=f"table {path}",
            found=error,
            fix="dtype='fp32', or scale the table",
        ) from None


def fake_quantized(frozen: FrozenModel, rows: Mapping[str, Stored]) -> FrozenModel:
    """The model with the numbers that a bundle reads back; the model itself where none is quantized.

    Args:
        frozen: the model.
        rows: path of each table → its rows as they are stored.
    """
    lossy = {path: own for path, own in rows.items() if own.lossy}
    if not lossy:
        return frozen
    from amtl_export.tables.stored_table import StoredEmbedding

    tables = {path: StoredEmbedding(frozen.tables[path], own) for path, own in lossy.items()}
    return replace(frozen.with_tables(tables), trained=None)
