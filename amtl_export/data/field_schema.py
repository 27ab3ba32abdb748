"""One field of a `schema.toml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from amtl_export.data import field_rules
from amtl_export.data.normalise import Value
from amtl_export.data.strict import Strict
from amtl_export.data.times import Part, Unit

Kind = Literal["categorical", "numeric", "multi-valued", "sequence"]
#: Names that the exported graph uses for itself.
RESERVED_NAMES = frozenset({"ids", "numeric", "request_ids", "request_numeric", "logit", "probability"})


Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class FieldSchema(Strict):
    """One field of a request.

    Attributes:
        name: the field's name in reports, inputs and vocabulary files.
        kind: how its values enter the model.
        column: the data's column, if it is called otherwise.
        type: how categorical values are compared and stored.
        min_count: values seen fewer times in training share the out-of-vocabulary id.
        dim: numbers that a row has, at most; D if not given. A sequence has its field's.
        governed: whether AMTL chooses this field's dims (never for numeric fields).
        of: of a sequence, the categorical field whose values it lists, most recent first; it has that field's
            vocabulary, rows and type.
        vocabulary: the field whose vocabulary this one has too, with rows and counts of its own.
        separator: what stands between the values of a multi-valued field or sequence.
        max_length: values of a multi-valued field or sequence beyond this many are dropped.
        pool: how the rows of a multi-valued field become one.
        transform: applied to a numeric value before it is normalised; `log1p` is sign(x)·log(1+|x|).
        missing: further texts of this field that mean "missing".
        trim: whether spaces around a text are no part of it, and several within it are one.
        default: what a missing value is read as; a row without any value has this one.
        unknown: what a value that is not in the vocabulary is read as: one of those that are.
        part: of a categorical field of times, whose values are that part of each.
        unit: of times that are whole numbers, counted from 1970 on.
        buckets: how many values are left of a categorical or multi-valued field, by a hash.
        boundaries: of a categorical field of numbers, whose values are how many of these a number has reached.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$", max_length=200)]
    kind: Kind
    column: str | None = None
    of: str | None = None
    vocabulary: str | None = None
    type: Literal["string", "int64"] = "string"
    min_count: Annotated[int, Field(ge=1, strict=True)] = 2
    dim: Annotated[int, Field(ge=1, strict=True)] | None = None
    governed: bool = True
    separator: Annotated[str, Field(min_length=1)] = "|"
    max_length: Annotated[int, Field(ge=1, le=4096, strict=True)] = 32
    pool: Literal["mean", "sum"] = "mean"
    transform: Literal["none", "log1p"] = "none"
    missing: tuple[str, ...] = ()
    trim: bool = True
    default: Value = None
    unknown: Value = None
    part: Part | None = None
    unit: Unit | None = None
    buckets: Annotated[int, Field(ge=2, le=2**24, strict=True)] | None = None
    boundaries: Annotated[tuple[Finite, ...], Field(min_length=1)] | None = None

    @property
    def source_column(self) -> str:
        """The data's column that holds this field."""
        return self.column or self.name

    @model_validator(mode="before")
    @classmethod
    def _type_is_implied(cls, values: Any) -> Any:
        return field_rules.implied(values)

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.name in RESERVED_NAMES:
            raise ValueError(f"the name {self.name!r} is used by the exported graph; say name = … and column = …")
        if (self.kind == "sequence") != (self.of is not None):
            raise ValueError(f'field {self.name}: kind = "sequence" and of = "…" go together')
        if self.vocabulary is not None and self.kind not in ("categorical", "multi-valued"):
            raise ValueError(f"field {self.name}: vocabulary = … is for categorical and multi-valued fields")
        field_rules.check(self)
        return self
