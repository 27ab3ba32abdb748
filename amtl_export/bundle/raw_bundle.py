"""Bundles that take values: with the encoder prepended to the graph, and the encoder alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.raw import encoded, raw_fields, raw_numbers, values_of
from amtl_export.bundle.samples import read_test_data, write_messages, write_test_data
from amtl_export.data.vocabulary import MISSING, OOV
from amtl_export.errors import ValidationFailed
from amtl_export.files import write_sums
from amtl_export.graph.raw_features import encoder_model, prepend_encoder
from amtl_export.graph.raw_field import RawField, encoded_name
from amtl_export.runtime.predictor import load
from amtl_export.spec import Feed


def write_raw_bundle(bundle: Bundle, folder: Path) -> None:
    """Write `model.onnx`, its data, samples and checksums of the bundle with its encoder prepended.

    Raises:
        InputError: see `raw_fields` and `graph.raw_features.encoder_model`.
        ValidationFailed: it does not answer the sample's values as the bundle answers their ids.
    """
    fields = raw_fields(bundle)
    model = ir.load(bundle.model)
    prepend_encoder(model, bundle.inputs, fields, raw_numbers(bundle))
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
    model = encoder_model(bundle.inputs, fields, raw_numbers(bundle))
    model.metadata_props["amtl.vocabulary_hash"] = str(bundle.signature.vocabulary_hash)
    raw, ids = _sample(bundle, fields)
    taken = {value.name for value in model.graph.inputs}
    given = {value.name for value in model.graph.outputs}
    expected = {encoded_name(n): values for n, values in ids.items() if encoded_name(n) in given}
    _write(model, folder, {name: values for name, values in raw.items() if name in taken}, expected)


def _sample(bundle: Bundle, fields: Mapping[str, RawField]) -> tuple[Feed, Feed]:
    """The bundle's sample as values, and their ids.

    The first row has a value not known in each single-valued field, the last row none at all; JSON knows no NaN, so
    fields of numbers have 0 there.
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
    raw = {name: np.nan_to_num(own) if own.dtype == np.float32 else own for name, own in raw.items()}
    raw |= {spec.name: sample[spec.name] for spec in bundle.inputs if spec.source == "numeric"}
    return raw, encoded(raw, bundle)


def _write(model: ir.Model, folder: Path, raw: Feed, expected: Feed) -> None:
    ir.save(model, folder / "model.onnx")
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    outputs = load(folder).predict(raw)
    for name, values in expected.items():
        if not np.allclose(outputs[name], values, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise ValidationFailed("raw values are not answered as their ids are", where=name)
    write_messages(folder / "samples", raw, outputs)
    write_test_data(folder, raw, outputs)
    write_sums(folder)
