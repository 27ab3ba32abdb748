"""A bundle that takes values where it took ids: its encoder prepended to its graph, or as a model of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.derived_values import examples, possible, raw_of
from amtl_export.data.encode import padded_ids
from amtl_export.data.normalise import Normalisation, Refuse, normalised
from amtl_export.data.vocabulary import OOV, vocabulary_hash
from amtl_export.errors import InputError
from amtl_export.graph.raw_field import RawField
from amtl_export.spec import Feed, TensorSpec


def raw_fields(bundle: Bundle) -> dict[str, RawField]:
    """Embedded field → how its values are encoded, in the order of the bundle's fields.

    Raises:
        InputError: the vocabularies are not those of the bundle's ids.
    """
    vocabularies = bundle.vocabularies()
    if (found := vocabulary_hash(vocabularies)) != bundle.signature.vocabulary_hash:
        raise InputError(
            "the vocabularies are not those of the bundle's ids",
            where=bundle.path / "vocab",
            found=f"hash {found}",
            allowed=bundle.signature.vocabulary_hash,
            fix="export it again",
        )
    schema = bundle.run_schema
    owners = {field.name: schema.lineage(field)[0].name for field in schema.embedded}
    specs = bundle.normalisations()
    return {name: RawField(vocabulary, specs[name], owners[name]) for name, vocabulary in vocabularies.items()}


def raw_numbers(bundle: Bundle) -> dict[str, Normalisation]:
    """Numeric field → what it does to a value."""
    specs = bundle.normalisations()
    return {field.name: specs[field.name] for field in bundle.run_schema.numeric}


def values_of(ids: npt.NDArray[np.int64], field: RawField) -> npt.NDArray[Any]:
    """Values that have these ids, as a graph takes them, in the same shape; one not known for ids out of vocabulary."""
    vocabulary, known = field.vocabulary, field.vocabulary.values.to_list()
    nothing = np.nan if field.spec.boundaries else field.missing[0]
    if field.spec.derived:
        known = [raw_of(value, field.spec) for value in known]
    values = [unknown_value(field), nothing, *known, *([nothing] * vocabulary.padded)]
    places = np.where((ids >= 0) & (ids < vocabulary.size), ids, OOV)
    return np.asarray(np.array(values, dtype=field.dtype)[places])


def unknown_value(field: RawField) -> Any:
    """A value that is not in the vocabulary, and does not mean "missing"; a known one where all are known."""
    if field.spec.buckets is not None:
        return examples(field.spec)[-1]
    if field.spec.derived:
        there = {value: raw for value in possible(field.spec) if (raw := raw_of(value, field.spec)) is not None}
        unknown = [raw for value, raw in there.items() if value not in set(field.vocabulary.values)]
        return [*unknown, *there.values()][0]
    known = {*field.vocabulary.values, *field.missing}
    if field.vocabulary.type == "int64":
        return next(-i for i in range(1, len(known) + 2) if -i not in known)
    return next("unknown" + "?" * i for i in range(len(known) + 1) if "unknown" + "?" * i not in known)


def encoded(raw: Feed, bundle: Bundle) -> Feed:
    """What a bundle's own graph takes for a raw graph's inputs, by the reader that training used."""
    fields = raw_fields(bundle)
    specs = {name: as_sent(spec) for name, spec in bundle.normalisations().items()}
    columns: dict[str, pl.Series] = {}
    for spec in bundle.inputs:
        if spec.source == "numeric":
            columns |= {name: pl.Series(column) for name, column in zip(spec.fields, raw[spec.name].T, strict=True)}
            continue
        for name in spec.fields:
            values = raw[name].tolist()
            columns[name] = as_column(values if specs[name].many else [row[0] for row in values], specs[name])
    widths = {name: values.shape[1] for name, values in raw.items() if name in fields}
    return encoded_columns(columns, bundle.inputs, fields, specs, widths)


def as_sent(spec: Normalisation) -> Normalisation:
    """What a raw graph does to a field: of a time that is no whole number, it takes the part."""
    return spec.model_copy(update={"type": "int64", "part": None, "missing": ()}) if spec.type == "time" else spec


def as_column(values: Sequence[Any], spec: Normalisation) -> pl.Series:
    """Values of a field as a column of data that has it in its own type, or as texts if one of them is a text."""
    one = [value for row in values for value in (row or () if spec.many else (row,))]
    texts = any(isinstance(value, str) for value in one)
    own = {"int64": pl.Int64(), "float32": pl.Float64()}.get("" if texts else spec.type, pl.String())
    return pl.Series(spec.field, values, dtype=pl.List(own) if spec.many else own, strict=False)


def encoded_columns(
    columns: Mapping[str, pl.Series],
    inputs: Sequence[TensorSpec],
    fields: Mapping[str, RawField],
    specs: Mapping[str, Normalisation],
    widths: Mapping[str, int] | None = None,
) -> Feed:
    """Field → raw values, as the inputs of a bundle's own graph, by the reader that training used.

    Args:
        columns: field → values of any type that its data may have.
        inputs: of the graph.
        fields: every embedded field.
        specs: every field.
        widths: multi-valued field → L; as many as its longest row has, at least 1, if not given.

    Raises:
        InputError: a value cannot be used.
    """
    found = {name: normalised(column, specs[name], refusing(name, column)) for name, column in columns.items()}
    return encoded_values(found, inputs, fields, widths)


def encoded_values(
    found: Mapping[str, pl.Series],
    inputs: Sequence[TensorSpec],
    fields: Mapping[str, RawField],
    widths: Mapping[str, int] | None = None,
) -> Feed:
    """Field → values of its own, as the inputs of a bundle's own graph.

    Args:
        found: field → what `normalised` made of its raw values.
        inputs: of the graph.
        fields: every embedded field.
        widths: multi-valued field → L; as many as its longest row has, at least 1, if not given.
    """
    feed: Feed = {}
    for spec in inputs:
        if spec.source == "numeric":
            numbers = [found[name].fill_null(float("nan")).to_numpy() for name in spec.fields]
            feed[spec.name] = np.stack(numbers, axis=1).astype(np.float32)
        elif spec.packed:
            ids = [fields[name].vocabulary.encode(found[name]) for name in spec.fields]
            feed[spec.name] = np.stack(ids, axis=1).astype(np.int64)
        else:
            lists = found[spec.name]
            longest = lists.list.len().max()
            width = (widths or {}).get(spec.name, max(1, longest if isinstance(longest, int) else 1))
            feed[spec.name] = padded_ids(lists, fields[spec.name].vocabulary, width).astype(np.int64)
    return feed


def refusing(name: str, column: pl.Series | None = None) -> Refuse:
    """Raise `InputError` for the first value of a column that cannot be used."""

    def refuse(bad: pl.Series, allowed: str) -> None:
        if bad.fill_null(False).any():
            found = None if column is None else column.filter(bad.fill_null(False)).to_list()[0]
            raise InputError(f"field {name}: a value cannot be used", found=repr(found), allowed=allowed)

    return refuse


def key_count(fields: Mapping[str, RawField]) -> int:
    """Values that an encoder holds, those of shared vocabularies once."""
    return sum(len(field.vocabulary.values) for name, field in fields.items() if field.shares == name)
