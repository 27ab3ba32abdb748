"""`signature.json`: what the graph takes and gives, and what every column means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from amtl_export.errors import InputError
from amtl_export.graph.inputs import Input
from amtl_export.graph.lower import Lookup
from amtl_export.models.config import ModelConfig
from amtl_export.tables.plan import LayerDtype
from amtl_export.tables.values import ValueType


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Column(_Part):
    """One column of `ids`, or the field of a multi-valued input."""

    field: str
    size: int
    padding: int | None = None


class Tensor(_Part):
    """An input or output; a text in `shape` is a dynamic dimension."""

    name: str
    dtype: Literal["int64", "float32"]
    shape: tuple[str | int, ...]
    columns: tuple[Column, ...] = ()
    fields: tuple[str, ...] = ()


class LookupSite(_Part):
    """A lookup in the graph; see `graph.lower.Lookup`."""

    table: str
    input: str
    output: str
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    layer: str = ""


class Signature(_Part):
    """A bundle's contract.

    Attributes:
        reserved: meaning of the reserved ids.
        vocabulary_hash: ids are those of the vocabularies with this hash, and of no others.
        dtype: of stored rows; layer_dtype, of the weights of layers fused with a lookup.
        dim: D of the embedding table; layout, page width and rows are its own too.
        table_bytes: of all tables as stored, and of projections behind them.
        lookups: where the graph looks rows up, so that they can be probed.
    """

    producer: dict[str, str]
    kind: Literal["bundle"] = "bundle"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reserved: dict[str, str]
    vocabulary_hash: str
    layout: str
    dtype: ValueType
    layer_dtype: LayerDtype = "fp32"
    id_policy: str
    dim: int
    page_width: int | None
    table_rows: int
    table_bytes: int
    lookups: tuple[LookupSite, ...]

    @property
    def request_fields(self) -> tuple[str, ...]:
        """Fields that are the request's, given once for all its candidates."""
        shared = [tensor for tensor in self.inputs if tensor.shape[0] == 1]
        return tuple(name for t in shared for name in (*(column.field for column in t.columns), *t.fields))

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
                "a bundle's signature cannot be read", where=where, found=f"{key}: {first['msg']}"
            ) from None


RESERVED = {
    "0": "out of vocabulary: values unseen or rare in training; so are ids outside [0, size)",
    "1": "missing",
    "padding": "fills up a multi-valued field; contributes nothing",
}


def tensors(config: ModelConfig, inputs: Sequence[Input]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of a model's graph."""
    embedded = {field.name: field for field in config.embedded}
    graph_inputs = []
    for spec in inputs:
        shape = (1 if spec.request else "batch", len(spec.columns) or f"length_{spec.name}")
        if spec.source == "numeric":
            graph_inputs.append(Tensor(name=spec.name, dtype="float32", shape=shape, fields=spec.fields))
            continue
        fields = [embedded[name] for name in spec.fields]
        columns = tuple(Column(field=field.name, size=field.size, padding=field.padding) for field in fields)
        graph_inputs.append(Tensor(name=spec.name, dtype="int64", shape=shape, columns=columns))
    outputs = tuple(Tensor(name=name, dtype="float32", shape=("batch",)) for name in ("logit", "probability"))
    return tuple(graph_inputs), outputs


def sites(lookups: list[Lookup]) -> tuple[LookupSite, ...]:
    """Lookups as they stand in the signature."""
    return tuple(LookupSite(**asdict(lookup)) for lookup in lookups)
