"""A bundle that takes values where it took ids: its encoder prepended to its graph, or as a model of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import polars as pl

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.samples import read_test_data, write_messages, write_test_data
from amtl_export.data.encode import padded_ids
from amtl_export.data.vocabulary import MISSING, OOV, vocabulary_hash
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import write_sums
from amtl_export.graph.raw_features import MISSING_VALUES, RawField, encoded_name, encoder_model, prepend_encoder
from amtl_export.runtime.predictor import load
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
    schemas = {field.name: field for field in bundle.run_schema.embedded}
    found_fields = {}
    for name, vocabulary in vocabularies.items():
        schema = schemas[name]
        texts = (*bundle.run_schema.files.missing, *schema.missing) if vocabulary.type == "string" else ()
        missing = tuple(sorted({MISSING_VALUES[vocabulary.type], *texts} - set(vocabulary.values)))
        found_fields[name] = RawField(vocabulary, missing, schema.of or name)
    return found_fields


def values_of(ids: npt.NDArray[np.int64], field: RawField) -> npt.NDArray[Any]:
    """Values that have these ids, int64 or object, in the same shape; a value not known for ids out of vocabulary."""
    vocabulary = field.vocabulary
    nothing = field.missing[0]
    values = [unknown_value(field), nothing, *vocabulary.values.to_list(), *([nothing] * vocabulary.padded)]
    known = np.where((ids >= 0) & (ids < vocabulary.size), ids, OOV)
    table = np.array(values, dtype=np.int64 if vocabulary.type == "int64" else object)
    return np.asarray(table[known])


def unknown_value(field: RawField) -> Any:
    """A value that is not in the vocabulary, and does not mean "missing"."""
    known = {*field.vocabulary.values, *field.missing}
    if field.vocabulary.type == "int64":
        return next(-i for i in range(1, len(known) + 2) if -i not in known)
    return next("unknown" + "?" * i for i in range(len(known) + 1) if "unknown" + "?" * i not in known)


def encoded(raw: Feed, inputs: tuple[TensorSpec, ...], fields: Mapping[str, RawField]) -> Feed:
    """What a bundle's own graph takes for raw inputs, by the encoder that training used."""
    feed: Feed = {}
    for spec in inputs:
        if spec.source == "numeric":
            feed[spec.name] = raw[spec.name]
        elif spec.packed:
            columns = [fields[name].vocabulary.encode(_series(raw[name][:, 0], fields[name])) for name in spec.fields]
            feed[spec.name] = np.stack(columns, axis=1).astype(np.int64)
        else:
            feed[spec.name] = _lists(raw[spec.name], fields[spec.name]).astype(np.int64)
    return feed


def _series(values: npt.NDArray[Any], field: RawField) -> pl.Series:
    """Null where values are missing."""
    present = [None if value in field.missing else value for value in values.tolist()]
    return pl.Series(present, dtype=field.vocabulary.values.dtype)


def _lists(values: npt.NDArray[Any], field: RawField) -> npt.NDArray[np.int32]:
    flat = _series(values.reshape(-1), field)
    rows = [flat[i * values.shape[1] : (i + 1) * values.shape[1]].drop_nulls() for i in range(len(values))]
    return padded_ids(pl.Series(rows, dtype=pl.List(flat.dtype)), field.vocabulary, values.shape[1])


def key_count(fields: Mapping[str, RawField]) -> int:
    """Values that an encoder holds, those of shared vocabularies once."""
    return sum(len(field.vocabulary.values) for name, field in fields.items() if field.shares == name)


def write_raw_bundle(bundle: Bundle, folder: Path) -> None:
    """Write `model.onnx`, its data, samples and checksums of the bundle with its encoder prepended.

    Raises:
        InputError: see `raw_fields` and `graph.raw_features.encoder_model`.
        ValidationFailed: it does not answer the sample's values as the bundle answers their ids.
    """
    fields = raw_fields(bundle)
    model = ir.load(bundle.model)
    prepend_encoder(model, bundle.inputs, fields)
    shutil.copyfile(bundle.path / "model.onnx.data", folder / "model.onnx.data")
    raw, ids = _sample(bundle, fields)
    expected = load(bundle.path).predict(ids)
    _write(model, folder, raw, expected)


def write_encoder_bundle(bundle: Bundle, folder: Path) -> None:
    """Write the encoder alone: `model.onnx`, samples and checksums.

    Raises:
        InputError: see `raw_fields` and `graph.raw_features.encoder_model`.
        ValidationFailed: it does not give the ids of the sample's values.
    """
    fields = raw_fields(bundle)
    model = encoder_model(bundle.inputs, fields)
    model.metadata_props["amtl.vocabulary_hash"] = str(bundle.signature.vocabulary_hash)
    raw, ids = _sample(bundle, fields)
    values_alone = {name: values for name, values in raw.items() if name in fields}
    expected = {encoded_name(spec.name): ids[spec.name] for spec in bundle.inputs if spec.source != "numeric"}
    _write(model, folder, values_alone, expected)


def _sample(bundle: Bundle, fields: Mapping[str, RawField]) -> tuple[Feed, Feed]:
    """The bundle's sample as values, and their ids.

    The first row has a value not known in each single-valued field, the last row none at all.
    """
    sample = read_test_data(bundle.path, "input")
    raw: Feed = {}
    for spec in bundle.inputs:
        ids = sample[spec.name].copy()
        if spec.source == "numeric":
            continue
        if not spec.request:
            ids[0, : len(spec.columns)], ids[-1] = OOV, MISSING
        columns = ids.T[:, :, None] if spec.packed else [ids]
        raw |= {name: values_of(column, fields[name]) for name, column in zip(spec.fields, columns, strict=True)}
    raw |= {spec.name: sample[spec.name] for spec in bundle.inputs if spec.source == "numeric"}
    return raw, encoded(raw, bundle.inputs, fields)


def _write(model: ir.Model, folder: Path, raw: Feed, expected: Feed) -> None:
    ir.save(model, folder / "model.onnx")
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    outputs = load(folder).predict(raw)
    for name, values in expected.items():
        if not np.allclose(outputs[name], values, rtol=1e-5, atol=1e-6):
            raise ValidationFailed("raw values are not answered as their ids are", where=name)
    write_messages(folder / "samples", raw, outputs)
    write_test_data(folder, raw, outputs)
    write_sums(folder)
