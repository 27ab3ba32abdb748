"""`signature.json`: what the graph takes and gives, what every column means, and which batches it answers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from amtl_export.data.output_names import probability_of
from amtl_export.errors import InputError
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.graph.lookups import Lookup
from amtl_export.spec import TensorSpec
from amtl_export.tables.plan import LayerDtype, Layout
from amtl_export.tables.values import ValueType


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Table(_Part):
    """A table as it is stored.

    Attributes:
        layout: how rows lie.
        dtype: of stored numbers.
        dim: D.
        rows: V.
        page_width: c, of the paged layout.
        bytes: in the file.
        bytes_dense: of the same table dense, in fp32.
    """

    layout: Layout
    dtype: ValueType
    dim: int = Field(le=2**24)
    rows: int
    page_width: int | None = None
    bytes: int
    bytes_dense: int


class Batches(_Part):
    """Which batches the graph answers, tried when it was exported.

    Attributes:
        none: of no example at all: `answered`, or why not.
        single: of one example, likewise.
        independent: whether examples alone are answered as in a batch; a server may batch requests only then.
    """

    none: str = "answered"
    single: str = "answered"
    independent: bool = True


class Signature(_Part):
    """A bundle's contract.

    Attributes:
        source: `run`, or `module` of a user.
        scores: the outputs that labels judge; the first is the main one.
        reserved: meaning of the reserved ids.
        vocabulary_hash: ids are those of the vocabularies with this hash, and of no others; None for a user's module.
        dtype: asked for stored rows; layer_dtype, for linear layers.
        main: the main table's name in `tables`.
        other_bytes: of projections behind the tables.
        lookups: where the graph looks rows up, so that they can be probed.
        limits: dimension → its largest size, where the model has one.
        out_of_range: input of whole numbers → how ids outside a table are taken: `guarded`, or why they fail.
    """

    producer: dict[str, str]
    kind: Literal["bundle"] = "bundle"
    source: Literal["run", "module"] = "run"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scores: tuple[str, ...]
    reserved: dict[str, str]
    vocabulary_hash: str | None = None
    dtype: ValueType
    layer_dtype: LayerDtype = "fp32"
    id_policy: str
    main: str
    tables: dict[str, Table]
    fields: tuple[FieldRows, ...]
    other_bytes: int = 0
    lookups: tuple[Lookup, ...]
    batches: Batches = Batches()
    out_of_range: dict[str, str] = {}
    limits: dict[str, int] = {}

    @model_validator(mode="after")
    def _names_known_tables(self) -> Self:
        """A ValueError, which pydantic gathers, if a field's table is none of `tables`."""
        for name, table in [(own.name, own.table) for own in self.fields] + [("main", self.main)][: len(self.tables)]:
            if table not in self.tables:
                raise ValueError(f"{name} is in table {table!r}, and the tables are {sorted(self.tables)}")
        return self

    @property
    def answer(self) -> str:
        """The output that is shown: the main score, of a run its probability."""
        return probability_of(self.scores[0]) if self.source == "run" else self.scores[0]

    @property
    def table(self) -> Table:
        """The main table."""
        return self.tables[self.main]

    @property
    def layout(self) -> Layout:
        """Of the main table."""
        return self.table.layout

    @property
    def dim(self) -> int:
        """D of the main table."""
        return self.table.dim

    @property
    def table_bytes(self) -> int:
        """Of all tables as stored, and of projections behind them."""
        return sum(table.bytes for table in self.tables.values()) + self.other_bytes

    @property
    def request_fields(self) -> tuple[str, ...]:
        """Fields that are given once per request, for all its candidates."""
        return tuple(name for spec in self.inputs if spec.request for name in (spec.fields or (spec.name,)))

    @classmethod
    def from_values(cls, values: Any, where: object) -> Signature:
        """Check parsed JSON.

        Raises:
            InputError: it does not fit.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(
                "a bundle's signature cannot be read", where=where, found=f"{key}: {first['msg']}".removeprefix(": ")
            ) from None


#: Reserved ids of a run's fields.
RESERVED = {
    "0": "out of vocabulary: values unseen or rare in training; so are ids outside [0, size)",
    "1": "missing",
    "padding": "fills up a multi-valued field; contributes nothing",
}

#: Of a user's module: no id is reserved, but ids outside a table read its row 0.
UNRESERVED = {"0": "also read for ids outside [0, size)"}
