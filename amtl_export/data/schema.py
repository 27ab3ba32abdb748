"""What the columns of a data set mean: `schema.toml`, checked, immutable, and the same as JSON."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from amtl_export.data import field_rules
from amtl_export.data.field_schema import FieldSchema
from amtl_export.data.file_format import FileFormat, JoinSchema
from amtl_export.data.normalise import normalisations
from amtl_export.data.output_names import output_names
from amtl_export.data.schema_problems import lines, nearest, tidied
from amtl_export.data.sql import columns_of
from amtl_export.data.strict import Strict
from amtl_export.errors import InputError

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


class RandomSplit(Strict):
    """Each row falls into a split by chance, reproducibly from the seed."""

    rule: Literal["random"] = "random"
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError("valid + test must stay below 1")
        return self


def _time_text(value: Any) -> Any:
    """TOML's own dates and times as ISO texts, which JSON can hold."""
    return value.isoformat() if isinstance(value, date | datetime) else value


def as_time(text: str) -> datetime | None:
    """The time that an ISO date or date-time means; None for any other text."""
    if not re.match(r"\d{4}-\d{2}-\d{2}($|[T ])", text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


Time = Annotated[int | float | str, BeforeValidator(_time_text)]


class TimeSplit(Strict):
    """Rows before `valid_from` train, rows from `test_from` on test.

    Numbers compare with numbers, ISO dates and date-times with dates, other texts with texts. A time with an offset
    is an instant; one without is what the data's own clock shows.
    """

    rule: Literal["time"]
    column: str
    valid_from: Time
    test_from: Time

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if isinstance(self.valid_from, str) != isinstance(self.test_from, str):
            raise ValueError("valid_from and test_from must both be texts or both be numbers")
        first, second = (as_time(t) if isinstance(t, str) else None for t in (self.valid_from, self.test_from))
        if (first is None) != (second is None):
            raise ValueError("valid_from and test_from must both be dates, or neither")
        if first is not None and second is not None:
            if (first.tzinfo is None) != (second.tzinfo is None):
                raise ValueError("valid_from and test_from must both have an offset, or neither")
            in_order = first < second
        else:
            in_order = self.valid_from < self.test_from  # type: ignore[operator]  # of one kind: checked above
        if not in_order:
            raise ValueError("valid_from must come before test_from")
        return self


def _column_text(value: Any) -> Any:
    """`1` and `true` as the column's text has them."""
    return str(value).lower() if isinstance(value, bool | int) else value


ColumnText = Annotated[str, BeforeValidator(_column_text)]


class ColumnSplit(Strict):
    """A column says the split of each row; what is no text compares as its text."""

    rule: Literal["column"]
    column: str
    train: ColumnText = "train"
    valid: ColumnText = "valid"
    test: ColumnText = "test"

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if len({self.train, self.valid, self.test}) < 3:
            raise ValueError("train, valid and test must be three different values")
        return self


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_several)]


class FilesSplit(Strict):
    """Each file belongs to one split: patterns relative to the folder, with `*`, `?`, `[…]` and `**`."""

    rule: Literal["files"]
    train: Patterns
    valid: Patterns
    test: Patterns

    @property
    def patterns(self) -> tuple[tuple[str, ...], ...]:
        """In the order of SPLITS."""
        return self.train, self.valid, self.test


Split = Annotated[RandomSplit | TimeSplit | ColumnSplit | FilesSplit, Field(discriminator="rule")]


#: How a label of several may be called: it is part of the names of outputs.
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _label(value: Any) -> str | dict[str, str]:
    if isinstance(value, str):
        if not value:
            raise ValueError("is empty; a column of 0 and 1, or an SQL expression, is needed")
        return value
    if not isinstance(value, dict):
        raise ValueError("neither a column, nor an SQL expression, nor a table of several, name = expression")
    if len(value) < 2:
        raise ValueError('a table has at least two labels; one alone is label = "…"')
    for name, expression in value.items():
        if not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a label: letters, digits and _ can, and no digit comes first")
        if not isinstance(expression, str) or not expression:
            raise ValueError(f"{name} = {expression!r} is neither a column nor an SQL expression")
    return dict(value)


class Schema(Strict):
    """The meaning of a data set.

    Attributes:
        label: a column of 0 and 1, or an SQL expression that is true for a click; or several of these by name, the
            first of which is the main one.
        filter: an SQL expression; rows where it is not true are left out.
        group: a field or a column whose values form the groups of group AUC, the user for instance.
        weight: a field or a column that says how much each row counts in loss and metrics: a number >= 0.
        joins: side files, whose columns each row gets, one after the other.
        fields: in the order in which the exported graph takes them.
    """

    version: Literal[1] = 1
    label: Annotated[str | dict[str, str], PlainValidator(_label)]
    filter: str | None = None
    group: Annotated[str, Field(min_length=1)] | None = None
    weight: Annotated[str, Field(min_length=1)] | None = None
    files: FileFormat = FileFormat()
    split: Split = RandomSplit()
    joins: Annotated[tuple[JoinSchema, ...], Field(alias="join")] = ()
    fields: Annotated[tuple[FieldSchema, ...], Field(alias="field", min_length=1)]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"field named twice: {', '.join(twice)}")
        if not self.categorical and not self.multi_valued:
            raise ValueError("at least one categorical or multi-valued field is needed")
        for text in self.labels.values():
            columns_of(text, "label")
        if self.filter is not None:
            columns_of(self.filter, "filter")
        if own := sorted(name for name in {*names, *self.columns(), *(j.key for j in self.joins)} if _is_taken(name)):
            raise ValueError(f"a column called __… or ^…$ cannot be read, rename it in the data: {', '.join(own)}")
        if taken := sorted(set(names) & set(output_names(self.label_names))):
            raise ValueError(f"a field is called as an output of the exported graph: {', '.join(taken)}")
        for name, what in ((self.group, "group"), (self.weight, "weight")):
            if name in {field.name for field in self.multi_valued}:
                raise ValueError(f"{what} = {name!r} is a field of several values a row; one is needed")
        owners = {field.name: field for field in self.categorical}
        for field in self.sequences:
            if field.of not in owners:
                raise ValueError(f"field {field.name}: of = {field.of!r} is no categorical field")
            field_rules.check(field, owners[field.of])
            if field.type != (type_ := owners[field.of].type):
                raise ValueError(f"field {field.name}: type {field.type!r}, but {field.of} has {type_!r}")
        return self

    @model_validator(mode="after")
    def _vocabularies_fit(self) -> Self:
        owners = {f.name: f for f in self.embedded if f.of is None and f.vocabulary is None}
        for field in (f for f in self.embedded if f.vocabulary is not None):
            owner, said = owners.get(field.vocabulary or ""), f"field {field.name}: vocabulary = {field.vocabulary!r}"
            if owner is None:
                raise ValueError(f"{said} is no categorical or multi-valued field with a vocabulary of its own")
            field_rules.check(field, owner)
            for key in ("type", "min_count", "trim", "buckets", "unknown"):
                own, theirs = getattr(field, key), getattr(owner, key)
                if own != theirs and (key == "type" or own != FieldSchema.model_fields[key].default):
                    raise ValueError(f"{said}, whose {key} is {theirs!r} and not {own!r}")
        normalisations(self)  # each compiles
        return self

    @property
    def labels(self) -> dict[str, str]:
        """Name → column or expression; the name of the only one is empty."""
        return {"": self.label} if isinstance(self.label, str) else self.label

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of several labels; none if there is one."""
        return () if isinstance(self.label, str) else tuple(self.label)

    @property
    def categorical(self) -> tuple[FieldSchema, ...]:
        """Single-valued categorical fields, the columns of the input `ids`."""
        return tuple(f for f in self.fields if f.kind == "categorical")

    @property
    def multi_valued(self) -> tuple[FieldSchema, ...]:
        """Multi-valued fields and sequences, one input each."""
        return tuple(f for f in self.fields if f.kind in ("multi-valued", "sequence"))

    @property
    def sequences(self) -> tuple[FieldSchema, ...]:
        """Fields that list values of a categorical field."""
        return tuple(f for f in self.fields if f.kind == "sequence")

    @property
    def embedded(self) -> tuple[FieldSchema, ...]:
        """Fields with an embedding table: categorical first, then multi-valued."""
        return self.categorical + self.multi_valued

    def lineage(self, field: FieldSchema) -> tuple[FieldSchema, ...]:
        """A field, after the fields whose vocabulary it has too; the first one owns it."""
        owner = next((f for f in self.fields if f.name == (field.of or field.vocabulary)), None)
        return (field,) if owner is None else (*self.lineage(owner), field)

    @property
    def numeric(self) -> tuple[FieldSchema, ...]:
        """Numeric fields, the columns of the input `numeric`."""
        return tuple(f for f in self.fields if f.kind == "numeric")

    @property
    def group_column(self) -> str | None:
        """The data's column that groups come from."""
        return self._column(self.group)

    @property
    def weight_column(self) -> str | None:
        """The data's column that weights come from."""
        return self._column(self.weight)

    def _column(self, name: str | None) -> str | None:
        """A field's column, if there is such a field."""
        return next((field.source_column for field in self.fields if field.name == name), name)

    def columns(self) -> set[str]:
        """Every column that is needed, the data's own or joined; not the keys of joins."""
        needed = {field.source_column for field in self.fields}
        needed |= {column for text in self.labels.values() for column in columns_of(text, "label")}
        needed |= set(columns_of(self.filter, "filter")) if self.filter else set()
        if isinstance(self.split, TimeSplit | ColumnSplit):
            needed.add(self.split.column)
        return needed | {column for column in (self.group_column, self.weight_column) if column is not None}

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON values, readable by `from_values`."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_values(cls, values: Any, where: Path | str) -> Schema:
        """Check parsed TOML or JSON values.

        Raises:
            InputError: every problem, each with its key and what was found.
        """
        known, unknown = tidied(values, _keys)
        problems = list(unknown.values())
        try:
            schema = cls.model_validate(known)
        except ValidationError as error:
            problems = lines(error.errors(), unknown)
        if problems:
            raise InputError(f"{len(problems)} problem(s) in the schema:\n" + "\n".join(problems), where=where)
        return schema

    @classmethod
    def from_toml(cls, path: Path) -> Schema:
        """Read a `schema.toml`.

        Raises:
            InputError: the file is missing, is not TOML, or does not fit.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(
                "the data folder has no schema.toml",
                where=path,
                fix="write one: label, and a [[field]] with name and kind for each field; "
                "https://github.com/amtl-export/amtl-export/blob/main/docs/schema.md has all keys",
            ) from None
        except (ValueError, RecursionError) as error:  # endless digits are no TOML's error, nor are lists in lists
            raise InputError("schema.toml is not TOML", where=path, found=error) from None
        return cls.from_values(values, path)


def _is_taken(column: str) -> bool:
    """Whether frames have columns of such a name beside the data's own, or Polars takes it for a pattern."""
    return column.startswith("__") or (column.startswith("^") and column.endswith("$"))


def _keys(path: tuple[str, ...], table: Mapping[str, Any]) -> Mapping[str, bool] | None:
    """The keys that a table of a schema may have, and whether it must have them."""
    if path == ("split",):
        rules: dict[str, type[BaseModel]] = {"random": RandomSplit, "time": TimeSplit, "column": ColumnSplit}
        rule = table.get("rule", table.get(nearest("rule", table) or ""))
        parts = [rules[rule]] if isinstance(rule, str) and rule in rules else list(rules.values())
    elif path == ():
        parts = [Schema]
    elif path == ("files",):
        parts = [FileFormat]
    elif path == ("join",):
        parts = [JoinSchema]
    elif path in (("field",), ("fields",)):
        parts = [FieldSchema]
    else:
        return None
    plural = {"fields": True} if path == () and "field" not in table else {}
    keys = {field.alias or name: field.is_required() for part in parts for name, field in part.model_fields.items()}
    return keys | {key: needed for key, needed in plural.items() if key in table}
