"""What a raw value of a field means: one specification, executed by training, by `encoder/` and by the graph in front.

A value is a text, a number, a truth value, or a list of them. In this order:

1. Of a multi-valued field or sequence, a text is split at `separator`; each part goes on alone.
2. Spaces (U+0020) around a text go, and several within it become one, unless `trim` is false.
3. The empty text, the texts of `missing`, null and NaN are missing.
4. By `type`: `string` takes a whole number as its decimal text and a truth value as `true` or `false`; `int64` takes a
   text of a whole number (`19`, `+19`, `19.0`), and a float that is one and at most 2^53; `float32` takes any finite
   number or its text, rounded to float32. A number that equals one of `missing`, and the least int64, are missing too.
5. A number becomes how many of the `boundaries` it has reached, compared in float32: a whole number from 0 on; a time
   becomes its `part` (`data/times.py`): of type `int64` if it has a `unit`, of type `time` if not; a text, or a whole
   number's decimal text, becomes the CRC-32 of its UTF-8 modulo `buckets` (of zlib, of ISO 3309).
6. Of a multi-valued field or sequence, missing ones are left out, and the first `max_length` of the others are kept.
7. A missing value is what `default` says, if it says anything; so is the only one of a row without any.
8. A value that is not in the vocabulary is read as `unknown`, if that is given: the vocabulary has its id for that.

Anything else is refused. `bundle/encoder.py` executes this one value at a time, `graph/raw_features.py` in nodes.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import PlainValidator, model_validator

from amtl_export.data.strict import Strict
from amtl_export.data.times import Part, Unit, part_of_epochs, part_of_texts, part_of_times

if TYPE_CHECKING:
    from amtl_export.data.field_schema import FieldSchema
    from amtl_export.data.schema import Schema


#: Says "missing" where nothing else can: the least int64.
NO_NUMBER = int(np.iinfo(np.int64).min)

WHOLE = r"^[+-]?[0-9]+(\.0*)?$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_EXACT = 2**53
BLANKS = " \t\r\n\v\f"  # around the text of a number
LARGEST = float(np.finfo(np.float32).max)

#: Tells of the first bad value: a mask in the values' order, and what is allowed.
Refuse = Callable[[pl.Series, str], None]


def _one_value(value: Any) -> str | int | float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError("neither a text nor a number")
    return value


#: A raw value in `schema.toml`, or none.
Value = Annotated[str | int | float | None, PlainValidator(_one_value)]


class Normalisation(Strict):
    """What one field does to a raw value.

    Attributes:
        field: its name.
        column: of the data.
        many: whether it has several values.
        type: as what each is read.
        trim: whether spaces around a text are no part of it.
        missing: texts that mean "missing", besides the empty one.
        separator: between the values in a text.
        max_length: how many values are kept.
        default: the value of what is missing, as the field has it.
        unknown: the value of what is not in the vocabulary, likewise.
        boundaries: float32, increasing; a number becomes how many of them it has reached.
        part: of a time, which a value becomes.
        unit: of times that are whole numbers; None for dates and texts.
        buckets: a value becomes the number of one of these, by its hash.
    """

    field: str
    column: str
    many: bool = False
    type: Literal["string", "int64", "float32", "time"]
    trim: bool = True
    missing: tuple[str, ...] = ()
    separator: str | None = None
    max_length: int | None = None
    default: Value = None
    unknown: Value = None
    boundaries: tuple[float, ...] = ()
    part: Part | None = None
    unit: Unit | None = None
    buckets: int | None = None

    @model_validator(mode="after")
    def _values_are_of_its_type(self) -> Self:
        for key, value in (("default", self.default), ("unknown", self.unknown)):
            if value is None:
                continue
            whole = isinstance(value, int) and -(2**63) <= value < 2**63
            number = whole or (isinstance(value, float) and abs(value) <= LARGEST)
            if not {"string": isinstance(value, str), "int64": whole, "float32": number}[self.value_type]:
                raise ValueError(f"field {self.field}: {key} = {value!r} is no {self.value_type}")
        return self

    @property
    def derived(self) -> bool:
        """Whether values are made of the data's: whole numbers."""
        return bool(self.boundaries) or self.part is not None or self.buckets is not None

    @property
    def value_type(self) -> Literal["string", "int64", "float32"]:
        """Of the field's values."""
        return "int64" if self.derived or self.type == "time" else self.type

    @property
    def vocabulary_type(self) -> Literal["string", "int64"]:
        """Of an embedded field's values."""
        return "string" if self.value_type == "string" else "int64"

    @property
    def missing_texts(self) -> tuple[str, ...]:
        """Trimmed as values are, the empty one first."""
        return tuple(dict.fromkeys(["", *(trimmed(text) if self.trim else text for text in self.missing)]))

    @property
    def missing_whole(self) -> tuple[int, ...]:
        """Whole numbers that mean "missing", the least int64 first."""
        found = [int(n) for n in _parsed(self.missing, pl.Int64)]
        return tuple(dict.fromkeys([NO_NUMBER, *found]))

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """Numbers that mean "missing", as float32 has them."""
        return tuple(
            dict.fromkeys(float(np.float32(n)) for n in _parsed(self.missing, pl.Float64) if abs(n) <= LARGEST)
        )


def normalisation(schema: Schema, field: FieldSchema) -> Normalisation:
    """Compile a field of a schema; one with another's vocabulary has its type, trim and "missing" too.

    Raises:
        ValueError: its default is no value of it, or float32 does not tell its boundaries apart.
    """
    lineage = schema.lineage(field)
    owner = lineage[0]
    many = field.kind in ("multi-valued", "sequence")
    spec = Normalisation(
        field=field.name,
        column=field.source_column,
        many=many,
        type=_read_as(field, owner),
        trim=owner.trim,
        missing=tuple(dict.fromkeys((*schema.files.missing, *(text for f in lineage for text in f.missing)))),
        separator=field.separator if many else None,
        max_length=field.max_length if many else None,
        boundaries=_boundaries(field.name, field.boundaries or ()),
        part=field.part,
        unit=field.unit,
        buckets=owner.buckets,
    )
    given = {"default": field.default, "unknown": owner.unknown}
    return spec.model_copy(update={key: _given(spec, key, value) for key, value in given.items() if value is not None})


def _read_as(field: FieldSchema, owner: FieldSchema) -> Literal["string", "int64", "float32", "time"]:
    if field.kind == "numeric" or field.boundaries:
        return "float32"
    return "time" if field.part is not None and field.unit is None else owner.type


def _boundaries(name: str, given: tuple[float, ...]) -> tuple[float, ...]:
    """As float32 has them."""
    if wrong := [x for x in given if abs(x) > LARGEST]:
        raise ValueError(f"field {name}: boundaries has {wrong[0]!r}, which float32 does not hold")
    rounded = tuple(float(np.float32(x)) for x in given)
    for i, (below, above) in enumerate(itertools.pairwise(rounded)):
        if below >= above:
            raise ValueError(f"field {name}: boundaries must increase, as float32 too: {given[i]!r}, {given[i + 1]!r}")
    return rounded


def _given(spec: Normalisation, key: str, value: Value) -> Value:
    """As the field has it."""
    said = f"field {spec.field}: {key} = {value!r}"

    def refuse(bad: pl.Series, allowed: str) -> None:
        if bad.fill_null(False).any():
            raise ValueError(f"{said} is no value of the field, which takes {allowed}")

    if spec.separator is not None and isinstance(value, str) and spec.separator in value:
        raise ValueError(f"{said} holds the separator {spec.separator!r}; give one value")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{said} is no value of the field: int64 does not hold it")
    found: Value = _scalars(pl.Series([value]), spec, refuse)[0]
    if found is None:
        raise ValueError(f"{said} means that a value is missing; give another, or take it from missing = [...]")
    return found


def normalisations(schema: Schema) -> dict[str, Normalisation]:
    """Field → what it does to a raw value."""
    return {field.name: normalisation(schema, field) for field in schema.fields}


def trimmed(text: str) -> str:
    """Without spaces around, and one for several within."""
    return " ".join(part for part in text.split(" ") if part)


def normalised(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    """Values of a column as the field has them.

    Args:
        values: of any type.
        spec: of the field.
        refuse: is told of values that cannot be used, one mask for the column.

    Returns:
        Of `spec.value_type`: String, Int64 or Float32, null where missing; of several a List, null where none is.
    """
    found = _found(values, spec, refuse)
    if spec.default is None:
        return found
    default = pl.Series([[spec.default] if spec.many else spec.default], dtype=found.dtype)
    return found.zip_with(found.is_not_null(), default.new_from_index(0, len(found)))


def _found(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    """Null where missing, whatever the default."""
    if not spec.many:
        return _scalars(values, spec, refuse)
    if values.dtype == pl.Null:
        return values.cast(pl.List(_DTYPES[spec.value_type]))
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if not isinstance(values.dtype, pl.List):
        if values.dtype != pl.String:
            refuse(values.is_not_null(), "a list, or a text with separators")
        values = values.str.split(spec.separator or "|")
    return _lists(values, spec, refuse)


def _lists(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    rows = pl.Series(np.arange(len(values), dtype=np.int64))
    frame = pl.DataFrame({"row": rows, "value": values}).filter(pl.col("value").list.len() > 0).explode("value")
    place = frame["row"]

    def refuse_row(bad: pl.Series, allowed: str) -> None:
        mask = np.zeros(len(values), dtype=bool)
        mask[place.filter(bad.fill_null(False)).to_numpy()] = True
        refuse(pl.Series(mask), allowed)

    one = _scalars(frame["value"], spec, refuse_row)
    kept = pl.DataFrame({"row": place, "value": one}).drop_nulls("value")
    kept = kept.filter(pl.int_range(pl.len()).over("row") < spec.max_length)
    lists = kept.group_by("row", maintain_order=True).agg("value")
    joined = rows.to_frame("row").join(lists, on="row", how="left", maintain_order="left")
    return joined["value"].cast(pl.List(_DTYPES[spec.value_type]))


def _scalars(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.null_count() == len(values):
        return pl.repeat(None, len(values), dtype=_DTYPES[spec.value_type], eager=True).alias(values.name)
    if values.dtype == pl.String:
        values = _present(values, spec)
    found = _TYPED[spec.type](values, spec, refuse)
    if spec.part is not None and spec.unit is not None:
        parts = part_of_epochs(found.fill_null(0).to_numpy(), spec.part, spec.unit)
        return pl.Series(found.name, parts).set(found.is_null(), None)
    if spec.buckets is not None:
        return _hashed(found, spec.buckets)
    return _reached(found, spec.boundaries) if spec.boundaries else found


def _hashed(values: pl.Series, buckets: int) -> pl.Series:
    """The bucket of each value."""
    texts = values.cast(pl.String)
    found = [None if text is None else zlib.crc32(text.encode()) % buckets for text in texts]
    return pl.Series(values.name, found, dtype=pl.Int64)


def _reached(numbers: pl.Series, boundaries: tuple[float, ...]) -> pl.Series:
    """How many boundaries each number has reached."""
    known = numbers.fill_null(0).to_numpy()
    count = np.searchsorted(np.array(boundaries, dtype=np.float32), known, side="right").astype(np.int64)
    return pl.Series(numbers.name, count).set(numbers.is_null(), None)


def _present(texts: pl.Series, spec: Normalisation) -> pl.Series:
    """Texts trimmed, null where missing."""
    if spec.trim:
        texts = texts.str.strip_chars(" ")
        if texts.str.contains("  ", literal=True).any():
            texts = texts.str.replace_all(" {2,}", " ")
    return texts.set(texts.is_in(spec.missing_texts).fill_null(False), None)


def _texts(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    if values.dtype == pl.String:
        return values
    if values.dtype.is_float():
        values = values.fill_nan(None)
        refuse(
            values.is_not_null(), 'texts or whole numbers; type = "int64" reads whole numbers that are stored as floats'
        )
    if values.dtype in (pl.Binary, pl.Object, pl.Duration) or values.dtype.is_nested():
        refuse(values.is_not_null(), "a text, a whole number, a date or a truth value")
    return _present(values.cast(pl.String), spec)


def _whole(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    allowed = 'a whole number that int64 holds (or type = "string")'
    if spec.unit is not None:
        allowed = f"a whole number, in {spec.unit} since 1970 (without unit, a date or date-time)"
    if values.dtype == pl.String:
        values = values.str.strip_chars(BLANKS)
        refuse(~values.str.contains(WHOLE), allowed)
        number = values.str.replace(r"\.0*$", "").str.strip_prefix("+").cast(pl.Int64, strict=False)
    elif values.dtype.is_float():
        values = values.fill_nan(None)
        refuse((values != values.floor()) | (values.abs() > _EXACT), f"{allowed}; a float holds those up to 2^53")
        number = values.cast(pl.Int64, strict=False)
    elif values.dtype.is_integer() or values.dtype.is_decimal():
        if values.dtype.is_decimal():
            refuse(values != values.floor(), allowed)
        number = values.cast(pl.Int64, strict=False)
    else:
        refuse(values.is_not_null(), allowed)
        number = values.cast(pl.Int64, strict=False)
    refuse(number.is_null() & values.is_not_null(), allowed)
    return number.set(number.is_in(spec.missing_whole).fill_null(False), None)


def _numbers(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    allowed = "a finite number that float32 holds"
    if values.dtype == pl.String:
        values = values.str.strip_chars(BLANKS)
        values = values.set(values.str.to_lowercase().is_in(["nan", "+nan", "-nan"]).fill_null(False), None)
        refuse(~values.str.contains(NUMBER), allowed)
    elif not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        refuse(values.is_not_null(), allowed)
    number = values.cast(pl.Float64, strict=False).fill_nan(None)
    refuse((number.is_null() & ~_nan(values) & values.is_not_null()) | (number.abs() > LARGEST), allowed)
    rounded = number.cast(pl.Float32)
    return rounded.set(rounded.is_in(list(spec.missing_numbers)).fill_null(False), None)


def _times(values: pl.Series, spec: Normalisation, refuse: Refuse) -> pl.Series:
    assert spec.part is not None
    shown = "2024-05-01T12:00:00" if spec.part == "hour" else "2024-05-01 or 2024-05-01T12:00:00"
    allowed = f'a time like {shown} (whole numbers need unit = "s" or "ms")'
    values = values.fill_nan(None) if values.dtype.is_float() else values
    if values.dtype == pl.String:
        found = part_of_texts(values.str.strip_chars(BLANKS), spec.part)
    elif isinstance(values.dtype, pl.Datetime) or (values.dtype == pl.Date and spec.part != "hour"):
        found = part_of_times(values, spec.part)
    else:
        found = pl.repeat(None, len(values), dtype=pl.Int64, eager=True)
    refuse(found.is_null() & values.is_not_null(), allowed)
    return found.alias(values.name)


def _nan(values: pl.Series) -> pl.Series:
    if values.dtype.is_float():
        return values.is_nan().fill_null(False)
    return pl.repeat(False, len(values), dtype=pl.Boolean, eager=True)


def _parsed(texts: tuple[str, ...], dtype: type[pl.DataType]) -> list[float]:
    grammar = WHOLE if dtype == pl.Int64 else NUMBER
    stripped = pl.Series(texts, dtype=pl.String).str.strip_chars(BLANKS)
    fitting = stripped.filter(stripped.str.contains(grammar))
    if dtype == pl.Int64:
        fitting = fitting.str.replace(r"\.0*$", "").str.strip_prefix("+")
    return fitting.cast(dtype, strict=False).drop_nulls().to_list()


_DTYPES: dict[str, pl.DataType] = {"string": pl.String(), "int64": pl.Int64(), "float32": pl.Float32()}
_TYPED: dict[str, Callable[[pl.Series, Normalisation, Refuse], pl.Series]] = {
    "string": _texts,
    "int64": _whole,
    "float32": _numbers,
    "time": _times,
}
