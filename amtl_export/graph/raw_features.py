"""A graph that turns values into ids (`ai.onnx.ml::LabelEncoder`), alone or prepended to a bundle's.

Each field has an input of its own, `[n, 1]`, or `[n, L]` if it is multi-valued: texts (string), int64, or float32
where it has boundaries; numeric fields stay together. What a value means is `data/normalise.py`'s, in nodes: spaces go
by StringSplit, whose parts are joined again, as are those of the vocabulary; the texts of "missing" and the least
int64 are keys too. In a multi-valued field missing values are padding, as are those beyond `max_length`; a row of
nothing else is missing. Where a field has a default, its id takes the place of "missing". A value that the vocabulary
does not know is out of vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import polars as pl
from onnx_ir.tape import Tape

from amtl_export.data.normalise import NO_NUMBER, Normalisation
from amtl_export.data.times import PER_SECOND
from amtl_export.data.vocabulary import FIRST_VALUE, MISSING, Vocabulary
from amtl_export.errors import InputError
from amtl_export.graph.raw_field import RawField, encoded_name
from amtl_export.graph.versions import IR_VERSION, OPSET
from amtl_export.spec import TensorSpec

#: What one model may hold, bytes; protobuf cannot read more than 2 GB.
_MOST_BYTES = 1_900_000_000

_ML, _ML_OPSET = "ai.onnx.ml", 4

#: numpy's name of a field's type → the graph's.
_TYPES = {"float32": ir.DataType.FLOAT, "object": ir.DataType.STRING, "int64": ir.DataType.INT64}


def encoder_model(
    inputs: Sequence[TensorSpec], fields: Mapping[str, RawField], numbers: Mapping[str, Normalisation]
) -> ir.Model:
    """The model that gives each of a graph's inputs, as `encoded_<input>`, for the values of its fields.

    Args:
        inputs: of the graph; numbers are left out where nothing is done to them.
        fields: every embedded field, by name.
        numbers: every numeric field, by name.

    Raises:
        InputError: the vocabularies are too large for one model; a field has buckets.
    """
    taken, given, tape = _encoder(inputs, fields, numbers)
    for name, value in given.items():
        value.name = encoded_name(name)
    graph = ir.Graph(
        taken,
        list(given.values()),
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports={"": OPSET, _ML: _ML_OPSET},
        name="amtl_export_encoder",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def prepend_encoder(
    model: ir.Model,
    inputs: Sequence[TensorSpec],
    fields: Mapping[str, RawField],
    numbers: Mapping[str, Normalisation],
) -> None:
    """Let a bundle's graph take values where it took ids, in place; numbers stay behind them.

    Raises:
        InputError: as `encoder_model`.
    """
    taken, given, tape = _encoder(inputs, fields, numbers)
    graph = model.graph
    others = [value for value in graph.inputs if value.name not in given]
    for value in graph.inputs:
        if value.name in given:
            ir.convenience.replace_all_uses_with(value, given[value.name])
    for value in tape.initializers:
        graph.initializers[str(value.name)] = value
    graph.insert_before(graph[0], tape.nodes)
    graph.inputs.clear()
    graph.inputs.extend([*taken, *others])
    graph.opset_imports[_ML] = _ML_OPSET


def _encoder(
    inputs: Sequence[TensorSpec], fields: Mapping[str, RawField], numbers: Mapping[str, Normalisation]
) -> tuple[list[ir.Value], dict[str, ir.Value], Tape]:
    """What is taken; what each input of the graph is; the nodes and initializers between, all named `encoder.…`."""
    encoded = [spec for spec in inputs if spec.source != "numeric"]
    if hashed := [name for spec in encoded for name in spec.fields if fields[name].spec.buckets is not None]:
        raise InputError(
            "a graph cannot hash values, as fields with buckets need: ONNX has no such operator",
            found=", ".join(hashed),
            fix="leave raw_features=True out, and encode where requests are made: encoder/ of the version",
        )
    values = {name: _raw_input(spec, fields[name]) for spec in encoded for name in spec.fields}
    taken = list(values.values())
    tape = Tape()
    looked_up = _looked_up(tape, fields, {name: _key(tape, raw, fields[name].spec) for name, raw in values.items()})
    given: dict[str, ir.Value] = {}
    for spec in encoded:
        if spec.packed:
            encoded_ids = tape.op("Concat", [looked_up[name] for name in spec.fields], {"axis": 1})
        else:
            encoded_ids = _padded(tape, looked_up[spec.name], fields[spec.name])
        encoded_ids.type, encoded_ids.shape = (
            ir.TensorType(ir.DataType.INT64),
            ir.Shape(_shape(spec, len(spec.columns) if spec.packed else 0)),
        )
        given[spec.name] = encoded_ids
    for spec in inputs:
        own = [numbers[name] for name in spec.fields] if spec.source == "numeric" else []
        if any(one.missing_numbers or one.default is not None for one in own):
            number = ir.Value(name=spec.name, type=ir.TensorType(ir.DataType.FLOAT), shape=_number_shape(spec))
            given[spec.name] = _filled(tape, _without(tape, number, [one.missing_numbers for one in own]), own)
            given[spec.name].type, given[spec.name].shape = number.type, number.shape
            taken.append(number)
    for i, node in enumerate(tape.nodes):
        node.name = f"encoder.{i}.{node.op_type}"
        for j, value in enumerate(node.outputs):
            value.name = f"{node.name}.{j}"
    return taken, given, tape


def _number_shape(spec: TensorSpec) -> ir.Shape:
    return ir.Shape(_shape(spec, len(spec.fields)))


def _without(tape: Tape, numbers: ir.Value, missing: Sequence[Sequence[float]]) -> ir.Value:
    """Numbers, NaN where a column has one of those that mean "missing" there."""
    name = numbers.name
    nan = _constant(tape, "nan", np.array([np.nan], dtype=np.float32))
    for i in range(max(map(len, missing))):
        marks = np.array([[own[i] if i < len(own) else np.nan for own in missing]], dtype=np.float32)
        marked = tape.op("Equal", [numbers, _constant(tape, f"missing_numbers.{name}.{i}", marks)])
        numbers = tape.op("Where", [marked, nan, numbers])
    return numbers


def _filled(tape: Tape, numbers: ir.Value, specs: Sequence[Normalisation]) -> ir.Value:
    """Numbers, a column's default where it has NaN."""
    if all(spec.default is None for spec in specs):
        return numbers
    row = np.array([[np.nan if spec.default is None else spec.default for spec in specs]], dtype=np.float32)
    defaults = _constant(tape, "defaults." + ".".join(spec.field for spec in specs), row)
    return tape.op("Where", [tape.op("IsNaN", [numbers]), defaults, numbers])


def _key(tape: Tape, value: ir.Value, spec: Normalisation) -> ir.Value:
    """What is looked up for a raw value."""
    if spec.boundaries:
        return _reached(tape, value, spec)
    return _part(tape, value, spec) if spec.unit is not None else value


def _reached(tape: Tape, number: ir.Value, spec: Normalisation) -> ir.Value:
    """How many boundaries each number `[n, 1]` has reached, int64; the least int64 where it is missing."""
    known = _without(tape, number, [spec.missing_numbers])
    boundaries = _constant(tape, f"boundaries.{spec.field}", np.array([spec.boundaries], dtype=np.float32))
    reached = tape.op("Cast", [tape.op("GreaterOrEqual", [known, boundaries])], {"to": ir.DataType.INT64})
    count = tape.op("ReduceSum", [reached, _integers(tape, "axis", [1])], {"keepdims": 1})
    return tape.op("Where", [tape.op("IsNaN", [known]), _integers(tape, "no_number", [NO_NUMBER]), count])


def _part(tape: Tape, epoch: ir.Value, spec: Normalisation) -> ir.Value:
    """The part of times in whole numbers, int64, the least int64 where it is missing; see `data/times.py`."""
    assert spec.part is not None
    assert spec.unit is not None

    def op(name: str, value: ir.Value, number: int) -> ir.Value:
        return tape.op(name, [value, _integers(tape, f"number.{number}", number)])

    def floor(value: ir.Value, number: int) -> ir.Value:
        """Div rounds towards zero, which is too high below zero."""
        quotient = op("Div", value, number)
        high = tape.op("Less", [value, op("Mul", quotient, number)])
        return tape.op("Sub", [quotient, tape.op("Cast", [high], {"to": ir.DataType.INT64})])

    seconds = floor(epoch, PER_SECOND[spec.unit])
    days = floor(seconds, 86400)
    if spec.part == "hour":
        found = op("Div", op("Mod", seconds, 86400), 3600)
    elif spec.part == "weekday":
        found = op("Mod", op("Add", days, 3), 7)
    else:
        of_era = op("Mod", op("Add", days, 719468), 146097)
        leap = tape.op("Sub", [op("Div", of_era, 36524), op("Div", of_era, 1460)])
        leap = tape.op("Sub", [leap, op("Div", of_era, 146096)])
        year = op("Div", tape.op("Add", [of_era, leap]), 365)
        before = tape.op("Add", [op("Mul", year, 365), tape.op("Sub", [op("Div", year, 4), op("Div", year, 100)])])
        of_year = tape.op("Sub", [of_era, before])
        month = op("Div", op("Add", op("Mul", of_year, 5), 2), 153)
        if spec.part == "month":
            found = op("Add", op("Mod", op("Add", month, 2), 12), 1)
        else:
            begins = op("Div", op("Add", op("Mul", month, 153), 2), 5)
            found = op("Add", tape.op("Sub", [of_year, begins]), 1)
    nothing = _integers(tape, "no_number", [NO_NUMBER])
    for missing in spec.missing_whole:
        found = tape.op("Where", [op("Equal", epoch, missing), nothing, found])
    return found


def fits_one_model(fields: Mapping[str, RawField]) -> bool:
    """Whether the vocabularies fit one model, each field's counted by itself."""
    return sum(_bytes(field.vocabulary) for field in fields.values()) <= _MOST_BYTES


def _shape(spec: TensorSpec, width: int) -> list[int | str]:
    return [1 if spec.request else "batch", width or f"length_{spec.name}"]


def _raw_input(spec: TensorSpec, field: RawField) -> ir.Value:
    shape = ir.Shape(_shape(spec, 1 if spec.packed else 0))
    return ir.Value(name=field.name, type=ir.TensorType(_TYPES[field.dtype]), shape=shape)


def _looked_up(tape: Tape, fields: Mapping[str, RawField], values: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Field → ids in the shape of its values; fields with one vocabulary and one meaning are looked up together."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in values:
        field = fields[name]
        groups.setdefault((field.shares, field.spec.trim, field.missing, field.looked_up_as), []).append(name)
    sizes = {names[0]: _bytes(fields[names[0]].vocabulary) for names in groups.values()}
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
        field = fields[names[0]]
        words = _words(field) if field.spec.trim and field.dtype == "object" else 0
        flat = [tape.op("Reshape", [values[name], _integers(tape, "flat", [-1])]) for name in names]
        together = flat[0] if len(flat) == 1 else tape.op("Concat", flat, {"axis": 0})
        keys = _joined_words(tape, together, words) if words else together
        encoded = tape.op("LabelEncoder", [keys], _attributes(field, words), domain=_ML)
        parts = [encoded]
        if len(names) > 1:
            lengths = tape.op("Concat", [tape.op("Shape", [one]) for one in flat], {"axis": 0})
            parts = list(tape.op_multi_out("Split", [encoded, lengths], {"axis": 0}, num_outputs=len(names)))
        for name, part in zip(names, parts, strict=True):
            ids[name] = tape.op("Reshape", [part, tape.op("Shape", [values[name]])])
    return ids


def _words(field: RawField) -> int:
    """The most words that a value of the vocabulary, or a text of "missing", has; at least one."""
    texts = [field.vocabulary.values, pl.Series(list(field.missing), dtype=pl.String)]
    return 1 + max(int(own.str.count_matches(" ", literal=True).max() or 0) for own in texts)  # type: ignore[arg-type]  # counts


def _joined_words(tape: Tape, texts: ir.Value, words: int) -> ir.Value:
    """Texts `[n]` without spaces around, one between words, and as many at the end as make `words` spaces in all.

    A text of more words keeps the first word too many, which no key has.
    """
    parts = tape.op_multi_out("StringSplit", [texts], num_outputs=2)[0]
    shape = tape.op("Concat", [tape.op("Shape", [texts]), _integers(tape, f"words.{words}", [words + 1])], {"axis": 0})
    none = _constant(tape, "no_text", np.array([""], dtype=object))
    padded = tape.op("Concat", [parts, tape.op("Expand", [none, shape])], {"axis": 1})
    space = _constant(tape, "space", np.array([" "], dtype=object))
    joined: ir.Value | None = None
    for i in range(words + 1):
        word = tape.op("Gather", [padded, _integers(tape, f"word.{i}", i)], {"axis": 1})
        joined = word if joined is None else tape.op("StringConcat", [tape.op("StringConcat", [joined, space]), word])
    assert joined is not None
    return joined


def _attributes(field: RawField, words: int) -> dict[str, Any]:
    """Of the LabelEncoder."""
    ids = dict.fromkeys(field.missing, field.looked_up_as)  # which come first: a sequence may have more of them
    for id_, value in enumerate(field.vocabulary.values.to_list(), start=FIRST_VALUE):
        ids.setdefault(value, id_)
    keys = [value + " " * (words - value.count(" ")) for value in ids] if words else list(ids)
    return {
        "keys_strings" if field.dtype == "object" else "keys_int64s": keys,
        "values_int64s": list(ids.values()),
        "default_int64": field.vocabulary.unknown,
    }


def _bytes(vocabulary: Vocabulary) -> int:
    """Of its keys and ids in protobuf, roughly and rather more."""
    count = len(vocabulary.values)
    if vocabulary.type == "int64":
        return 15 * count
    return 12 * count + int(vocabulary.values.str.len_bytes().sum())


def _padded(tape: Tape, ids: ir.Value, field: RawField) -> ir.Value:
    """Ids of a multi-valued field: padding where a value is missing or too many; what stands for a row of padding."""
    assert field.vocabulary.padding is not None
    missing = _integers(tape, "missing", [MISSING])
    padding = _integers(tape, f"padding.{field.name}", [field.vocabulary.padding])
    there = tape.op("Not", [tape.op("Equal", [ids, missing])])
    count = tape.op("CumSum", [tape.op("Cast", [there], {"to": ir.DataType.INT64}), _integers(tape, "columns", 1)])
    most = _integers(tape, f"max_length.{field.name}", [field.spec.max_length or np.iinfo(np.int64).max])
    kept = tape.op("And", [there, tape.op("LessOrEqual", [count, most])])
    filled = tape.op("Where", [kept, ids, padding])
    axis, start, one = (_integers(tape, name, [v]) for name, v in (("axis", 1), ("none", 0), ("one", 1)))
    total = tape.op("ReduceSum", [tape.op("Cast", [there], {"to": ir.DataType.INT64}), axis], {"keepdims": 1})
    nothing = tape.op("Equal", [total, start])
    end = _integers(tape, "end", [np.iinfo(np.int64).max])
    first = tape.op("Slice", [filled, start, one, axis])
    rest = tape.op("Slice", [filled, one, end, axis])
    instead = _integers(tape, f"nothing.{field.name}", [field.nothing])
    return tape.op("Concat", [tape.op("Where", [nothing, instead, first]), rest], {"axis": 1})


def _integers(tape: Tape, name: str, values: Sequence[int] | int) -> ir.Value:
    return _constant(tape, name, np.array(values, dtype=np.int64))


def _constant(tape: Tape, name: str, values: npt.NDArray[Any]) -> ir.Value:
    """An initializer, made once."""
    for value in tape.initializers:
        if value.name == f"encoder.{name}":
            return value
    if values.dtype == object:
        texts = ir.StringTensor(
            [text.encode() for text in values], shape=ir.Shape(values.shape), name=f"encoder.{name}"
        )
        return tape.initializer(texts)
    return tape.initializer(ir.tensor(values, name=f"encoder.{name}"))
