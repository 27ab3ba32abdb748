"""What is known of a model's fields: where their rows are, and of a run's also what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from amtl_export.data.schema import Schema
from amtl_export.data.vocabulary import Vocabulary, vocabulary_file, vocabulary_hash
from amtl_export.errors import InputError
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.freezing.swap import Table
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.models.attach import AttachedTable, counts_of
from amtl_export.models.config import ModelConfig
from amtl_export.spec import BATCH, Column, TensorSpec


@dataclass(frozen=True)
class RunData:
    """What is known of a run's model alone.

    Attributes:
        config: what the trained model was built from.
        schema: what the columns mean.
        vocabularies: embedded field → vocabulary.
    """

    config: ModelConfig
    schema: Schema
    vocabularies: dict[str, Vocabulary]

    @property
    def vocabulary_hash(self) -> str:
        """Over all vocabularies."""
        return vocabulary_hash(self.vocabularies)

    @property
    def most_values(self) -> dict[str, int]:
        """Dimension → how many values an example has at most, for each multi-valued field and sequence."""
        return {_values_of(own.name): own.max_length for own in self.schema.multi_valued}


def run_inputs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """What a run's model takes: `ids`, `numeric`, and one input for each multi-valued field, whichever it has."""
    specs = []
    if config.single:
        columns = tuple(Column(config.embedded[i].name, config.embedded[i].size) for i in config.single)
        specs.append(TensorSpec("ids", "int64", (BATCH, len(columns)), columns, "ids"))
    if config.numeric:
        columns = tuple(Column(own.name) for own in config.numeric)
        specs.append(TensorSpec("numeric", "float32", (BATCH, len(columns)), columns, "numeric"))
    for i in config.multi:
        own = config.embedded[i]
        column = Column(own.name, own.size, own.padding)
        specs.append(TensorSpec(own.name, "int64", (BATCH, _values_of(own.name)), (column,), own.name))
    return tuple(specs)


def _values_of(field: str) -> str:
    """Name of the dimension of a field's values."""
    return f"length_{field}"


def row_counts(fields: Sequence[FieldRows], vocabularies: Mapping[str, Vocabulary], rows: int) -> npt.NDArray[np.int64]:
    """int64 `[rows]`: how often training saw each row, over all fields that read it."""
    counts = np.zeros(rows, dtype=np.int64)
    for own in fields:
        counts[own.offset : own.offset + own.size] += vocabularies[own.name].counts
    return counts


def table_counts(
    model: nn.Module, tables: Sequence[Table], given: Mapping[str, Any]
) -> dict[str, npt.NDArray[np.int64]]:
    """Path of each table → how often training saw each row, as given or as it was attached with, where that is known.

    Args:
        model: trained.
        tables: of it.
        given: dotted name of any module that holds a table → int64 `[V]`.

    Raises:
        InputError: a name holds no table, or counts do not fit.
    """
    names = {holder.path: table.path for table in tables for holder in table.holders}
    if unknown := sorted(set(given) - set(names)):
        raise InputError("counts: no such table", found=unknown, allowed=", ".join(names), fix="name the embedding")
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for table in tables:
        holder = model.get_submodule(table.path)
        if isinstance(holder, AttachedTable):
            counts[table.path] = counts_of(holder).cpu().numpy()
    for name, values in given.items():
        size = next(len(table.weight) for table in tables if table.path == names[name])
        counts[names[name]] = _whole_numbers(values, name, size)
    return counts


def _whole_numbers(values: Any, name: str, size: int) -> npt.NDArray[np.int64]:
    try:
        numbers = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (size,) or not (np.isfinite(numbers) & (numbers >= 0) & (numbers % 1 == 0)).all():
        raise InputError("counts do not fit a table", where=name, allowed=f"{size} whole numbers from 0 on")
    return numbers.astype(np.int64)


def table_field(path: str, trained: nn.Module, table: FrozenEmbedding, attached: bool) -> FieldRows:
    """Of a user's table: the rows of one field.

    Raises:
        InputError: the path is too long for the name of a file.
    """
    vocabulary_file(path)
    padding = getattr(trained.get_submodule(path), "padding_idx", None)
    return FieldRows(path, path, 0, len(table.dims), attached, padding if isinstance(padding, int) else None)


def method_fields(tables: Mapping[str, FrozenEmbedding]) -> Iterator[FieldRows]:
    """Fields of embedding methods in a user's module: numbered where a table has several.

    Raises:
        InputError: a name is too long for that of a file.
    """
    for path, table in tables.items():
        for i, (size, offset) in enumerate(zip(table.sizes, table.offsets, strict=True)):
            name = f"{path}.{i}" if len(table.sizes) > 1 else path
            vocabulary_file(name)
            yield FieldRows(name, path, offset, size, governed=True)
