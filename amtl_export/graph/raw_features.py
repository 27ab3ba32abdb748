"""A graph that turns values into ids (`ai.onnx.ml::LabelEncoder`), alone or prepended to a bundle's.

Each field has an input of its own, `[n, 1]`, or `[n, L]` if it is multi-valued: texts (string), or int64. A value that
the vocabulary does not know is out of vocabulary; the empty text, the field's other texts for "missing", and the least
int64 are missing. In a multi-valued field these fill up a row; a row of nothing else is missing, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from amtl_export.data.vocabulary import FIRST_VALUE, MISSING, OOV, Vocabulary
from amtl_export.errors import InputError
from amtl_export.graph.trace import IR_VERSION, OPSET
from amtl_export.spec import TensorSpec

#: Type → the value that says "missing".
MISSING_VALUES: dict[str, Any] = {"string": "", "int64": int(np.iinfo(np.int64).min)}

#: What one model may hold, bytes; protobuf cannot read more than 2 GB.
_MOST_BYTES = 1_900_000_000

_ML, _ML_OPSET = "ai.onnx.ml", 4


@dataclass(frozen=True)
class RawField:
    """A field as raw values.

    Attributes:
        vocabulary: value → id.
        missing: values that mean "missing"; none of them is in the vocabulary.
        shares: the field whose vocabulary this one has too; its own name otherwise.
    """

    vocabulary: Vocabulary
    missing: tuple[Any, ...]
    shares: str

    @property
    def name(self) -> str:
        """Of the field."""
        return self.vocabulary.field

    @property
    def type(self) -> ir.DataType:
        """Of its values in the graph."""
        return ir.DataType.INT64 if self.vocabulary.type == "int64" else ir.DataType.STRING


def encoded_name(name: str) -> str:
    """What the encoder calls the ids of a graph's input."""
    return f"encoded_{name}"


def encoder_model(inputs: Sequence[TensorSpec], fields: Mapping[str, RawField]) -> ir.Model:
    """The model that gives each of a graph's inputs of ids, as `encoded_<input>`, for the values of its fields.

    Args:
        inputs: of the graph; numbers are left out.
        fields: every embedded field, by name.

    Raises:
        InputError: nothing can say "missing" for a field, or the vocabularies are too large for one model.
    """
    taken, ids, tape = _encoder(inputs, fields)
    for name, value in ids.items():
        value.name = encoded_name(name)
    graph = ir.Graph(
        taken,
        list(ids.values()),
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": OPSET, _ML: _ML_OPSET},
        name="amtl_export_encoder",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def prepend_encoder(model: ir.Model, inputs: Sequence[TensorSpec], fields: Mapping[str, RawField]) -> None:
    """Let a bundle's graph take values where it took ids, in place; numbers stay behind them.

    Raises:
        InputError: as `encoder_model`.
    """
    taken, ids, tape = _encoder(inputs, fields)
    graph = model.graph
    numbers = [value for value in graph.inputs if value.name not in ids]
    for value in graph.inputs:
        if value.name in ids:
            ir.convenience.replace_all_uses_with(value, ids[value.name])
    for value in tape.initializers:
        graph.initializers[str(value.name)] = value
    graph.insert_before(graph[0], tape.nodes)
    graph.inputs.clear()
    graph.inputs.extend([*taken, *numbers])
    graph.opset_imports[_ML] = _ML_OPSET


def _encoder(
    inputs: Sequence[TensorSpec], fields: Mapping[str, RawField]
) -> tuple[list[ir.Value], dict[str, ir.Value], Tape]:
    """What is taken; what each input of ids is; the nodes and initializers between, all named `encoder.…`."""
    encoded = [spec for spec in inputs if spec.source != "numeric"]
    values = {name: _raw_input(spec, fields[name]) for spec in encoded for name in spec.fields}
    tape = Tape()
    looked_up = _looked_up(tape, fields, values)
    ids: dict[str, ir.Value] = {}
    for spec in encoded:
        if spec.packed:
            encoded_ids = tape.op("Concat", [looked_up[name] for name in spec.fields], {"axis": 1})
        else:
            encoded_ids = _padded(tape, looked_up[spec.name], fields[spec.name].vocabulary)
        encoded_ids.type, encoded_ids.shape = (
            ir.TensorType(ir.DataType.INT64),
            ir.Shape(_shape(spec, len(spec.columns) if spec.packed else 0)),
        )
        ids[spec.name] = encoded_ids
    for i, node in enumerate(tape.nodes):
        node.name = f"encoder.{i}.{node.op_type}"
        for j, value in enumerate(node.outputs):
            value.name = f"{node.name}.{j}"
    return list(values.values()), ids, tape


def _shape(spec: TensorSpec, width: int) -> list[int | str]:
    return [1 if spec.request else "batch", width or f"length_{spec.name}"]


def _raw_input(spec: TensorSpec, field: RawField) -> ir.Value:
    shape = ir.Shape(_shape(spec, 1 if spec.packed else 0))
    return ir.Value(name=field.name, type=ir.TensorType(field.type), shape=shape)


def _looked_up(tape: Tape, fields: Mapping[str, RawField], values: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Field → ids in the shape of its values; fields that share a vocabulary are looked up together."""
    groups: dict[str, list[str]] = {}
    for name in values:
        groups.setdefault(fields[name].shares, []).append(name)
    sizes = {owner: _bytes(fields[owner].vocabulary) for owner in groups}
    if sum(sizes.values()) > _MOST_BYTES:
        raise InputError(
            "the vocabularies are too large for a model that encodes raw features",
            where=max(sizes, key=lambda owner: sizes[owner]),
            found=f"{sum(sizes.values()):,} bytes",
            allowed=f"{_MOST_BYTES:,}",
            fix="encode where requests are made: encoder/ of a packaged version",
        )
    ids: dict[str, ir.Value] = {}
    for names in groups.values():
        attributes = _attributes([fields[name] for name in names])
        if len(names) == 1:
            ids[names[0]] = tape.op("LabelEncoder", [values[names[0]]], attributes, domain=_ML)
            continue
        flat = [tape.op("Reshape", [values[name], _constant(tape, "flat", [-1])]) for name in names]
        encoded = tape.op("LabelEncoder", [tape.op("Concat", flat, {"axis": 0})], attributes, domain=_ML)
        lengths = tape.op("Concat", [tape.op("Shape", [one]) for one in flat], {"axis": 0})
        parts = tape.op_multi_out("Split", [encoded, lengths], {"axis": 0}, num_outputs=len(names))
        for name, part in zip(names, parts, strict=True):
            ids[name] = tape.op("Reshape", [part, tape.op("Shape", [values[name]])])
    return ids


def _attributes(fields: Sequence[RawField]) -> dict[str, Any]:
    """Of the LabelEncoder of fields with one vocabulary."""
    vocabulary = fields[0].vocabulary
    missing = sorted({value for field in fields for value in field.missing})
    if not missing:
        raise InputError(
            "raw features: the value that would say 'missing' is one of the field's own",
            where=vocabulary.field,
            found=repr(MISSING_VALUES[vocabulary.type]),
            fix='name texts that mean it under missing = [...] in the schema, with type = "string"',
        )
    keys = "keys_int64s" if vocabulary.type == "int64" else "keys_strings"
    return {
        keys: [*vocabulary.values.to_list(), *missing],
        "values_int64s": [*range(FIRST_VALUE, FIRST_VALUE + len(vocabulary.values)), *[MISSING] * len(missing)],
        "default_int64": OOV,
    }


def _bytes(vocabulary: Vocabulary) -> int:
    """Of its keys and ids in protobuf, roughly and rather more."""
    count = len(vocabulary.values)
    if vocabulary.type == "int64":
        return 15 * count
    return 11 * count + int(vocabulary.values.str.len_bytes().sum())


def _padded(tape: Tape, ids: ir.Value, vocabulary: Vocabulary) -> ir.Value:
    """Ids of a multi-valued field: padding where a value is missing; a row of padding alone is missing itself."""
    assert vocabulary.padding is not None
    missing, padding = (
        _constant(tape, "missing", [MISSING]),
        _constant(tape, f"padding.{vocabulary.field}", [vocabulary.padding]),
    )
    absent = tape.op("Equal", [ids, missing])
    present = tape.op("Cast", [tape.op("Not", [absent])], {"to": ir.DataType.INT64})
    count = tape.op("ReduceSum", [present, _constant(tape, "columns", [1])], {"keepdims": 1})
    nothing = tape.op("Equal", [count, _constant(tape, "none", [0])])
    filled = tape.op("Where", [absent, padding, ids])
    axis, start, one = (_constant(tape, name, [v]) for name, v in (("columns", 1), ("none", 0), ("one", 1)))
    end = _constant(tape, "end", [np.iinfo(np.int64).max])
    first = tape.op("Slice", [filled, start, one, axis])
    rest = tape.op("Slice", [filled, one, end, axis])
    return tape.op("Concat", [tape.op("Where", [nothing, missing, first]), rest], {"axis": 1})


def _constant(tape: Tape, name: str, values: Sequence[int]) -> ir.Value:
    """An int64 initializer, made once."""
    for value in tape.initializers:
        if value.name == f"encoder.{name}":
            return value
    return tape.initializer(ir.tensor(np.array(values, dtype=np.int64), name=f"encoder.{name}"))
