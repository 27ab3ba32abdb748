"""A bundle's graph held against the one that export writes: node by node, initializer by initializer, byte by byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import DATA, EXTERNAL_ABOVE
from amtl_export.graph.facts import CLASSES, NAMESPACE

#: Bytes of an initializer that are compared at a time.
_CHUNK = 1 << 24

#: Differences that are listed, of a graph that may have one in every node.
_MOST = 10

#: What names an element of a repeated field, the first that it has.
_NAMES = ("name", "key", "domain", "s")


@dataclass(frozen=True)
class GraphProblems:
    """Where a graph differs from the one that export writes.

    Attributes:
        structure: nodes, inputs, types, shapes, metadata: it is another graph.
        numbers: what its initializers hold.
        same_nodes: whether it computes the same of whatever its initializers hold.
    """

    structure: list[str]
    numbers: list[str]
    same_nodes: bool


def graph_problems(bundle: Bundle, wanted: ir.Model) -> GraphProblems:
    """Compare a bundle's graph and arrays with those that export writes; the arrays are never copied whole.

    Args:
        bundle: whose graph.
        wanted: the graph made anew, its arrays in memory.

    Raises:
        ValidationFailed: `model.onnx` cannot be parsed.
    """
    found = bundle.proto()
    places, wrong = _places(found)
    arrays = {str(v.name): v.const_value for graph in wanted.graphs() for v in graph.initializers.values()}
    with _in_the_file(wanted, places):
        written = ir.to_proto(wanted)
    if bundle.signature.source == "module":  # classes are where a program has them: in a file, or in __main__
        for proto in (found, written):
            _drop_classes(proto)
    inline = list(_inline_differences(found, written))
    structure = list(itertools.islice(_differences("", found, written), _MOST))
    same_nodes = not wrong and _computation(found) == _computation(written)
    held = {name: tensor for name, tensor in arrays.items() if name in places and tensor is not None}
    numbers = list(itertools.islice(_data_differences(bundle.path / DATA, places, held), _MOST))
    return GraphProblems(wrong + structure, (inline + numbers)[:_MOST], same_nodes)


@dataclass(frozen=True)
class _Place:
    """Where an initializer lies in the file of weights, in bytes."""

    offset: int
    length: int


def _places(model: onnx.ModelProto) -> tuple[dict[str, _Place], list[str]]:
    """Initializer → its place in the file; and what is wrong about where they say that they are."""
    places: dict[str, _Place] = {}
    wrong = []
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        given = {entry.key: entry.value for entry in tensor.external_data}
        numbers = [given.get(key, "") for key in ("offset", "length")]
        sound = all(number.isascii() and number.isdecimal() and len(number) < 19 for number in numbers)
        if not sound or given.get("location") != DATA or tensor.name in places:
            wrong.append(f"initializer {tensor.name}: its place is no place in {DATA}: {given}")
            continue
        places[tensor.name] = _Place(int(numbers[0]), int(numbers[1]))
    return places, wrong[:_MOST]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


@contextmanager
def _in_the_file(model: ir.Model, places: Mapping[str, _Place]) -> Iterator[None]:
    """Inside the block, large initializers say that they lie in a file, at given places, as `write_model` has them."""
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    large = [(v, v.const_value) for v in values if v.const_value is not None and v.const_value.nbytes > EXTERNAL_ABOVE]
    try:
        for value, tensor in large:
            place = places.get(str(value.name), _Place(0, 0))
            value.const_value = ir.ExternalTensor(
                DATA,
                place.offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir="",
            )
        yield
    finally:
        for value, tensor in large:
            value.const_value = tensor


def _inline_differences(found: onnx.ModelProto, wanted: onnx.ModelProto) -> Iterator[str]:
    """Initializers inside the graph that differ in their numbers alone, which are then taken over."""
    known = {tensor.name: tensor for tensor in _tensors(wanted.graph)}
    for tensor in _tensors(found.graph):
        other = known.get(tensor.name)
        if other is None or tensor.raw_data == other.raw_data or len(tensor.raw_data) != len(other.raw_data):
            continue
        mine = onnx.TensorProto.FromString(tensor.SerializeToString())
        mine.raw_data = other.raw_data
        if _bytes(mine) == _bytes(other):
            own, wished = (ir.serde.deserialize_tensor(own) for own in (tensor, other))
            there, array = np.frombuffer(tensor.raw_data, np.uint8), wished.numpy()
            at = _first_difference(there, np.frombuffer(other.raw_data, np.uint8))
            yield f"initializer {tensor.name}{_number_at(at or 0, there, own, array)}"
            tensor.raw_data = other.raw_data


def _computation(model: onnx.ModelProto) -> list[bytes]:
    """What a graph does, whatever its initializers hold; names of classes and modules are no part of it."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    _drop_classes(copy)
    graph = copy.graph
    parts = (copy.opset_import, copy.functions, graph.node, graph.input, graph.output, graph.sparse_initializer)
    return [_bytes(element) for part in parts for element in part]


def _drop_classes(model: onnx.ModelProto) -> None:
    for node in itertools.chain(model.graph.node, *(function.node for function in model.functions)):
        kept = [entry for entry in node.metadata_props if entry.key not in (CLASSES, NAMESPACE)]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def _differences(where: str, found: Any, wanted: Any) -> Iterator[str]:
    """Every field of two messages that differs, in words."""
    if _bytes(found) == _bytes(wanted):
        return
    told = False
    for field in found.DESCRIPTOR.fields:
        mine, other = getattr(found, field.name), getattr(wanted, field.name)
        if hasattr(mine, "add"):  # a list of messages
            changes = _in_a_list(f"{where}{field.name} ", mine, other)
        elif field.message_type is not None:
            changes = _differences(f"{where}{field.name}, ", mine, other)
        elif repr(mine) != repr(other):
            changes = iter([f"{where}{field.name}: found {_shown(mine)}, export writes {_shown(other)}"])
        else:
            continue
        for change in changes:
            told = True
            yield change
    if not told:
        yield f"{where.rstrip(', ') or 'model.onnx'}: holds more than ONNX has fields for"


def _in_a_list(where: str, found: Any, wanted: Any) -> Iterator[str]:
    """Elements of two lists by name: those that are too many, missing, changed, or in another order."""
    mine, other = _named(found), _named(wanted)
    if list(map(_bytes, found)) == list(map(_bytes, wanted)):
        return
    extra, missing = [name for name in mine if name not in other], [name for name in other if name not in mine]
    yield from (f"{where}{name}: export writes none" for name in extra)
    yield from (f"{where}{name}: is missing" for name in missing)
    for name, element in mine.items():
        if name in other:
            yield from _differences(f"{where}{name}, ", element, other[name])
    if not extra and not missing and list(mine) != list(other):
        yield f"{where.rstrip()}: in another order"


def _named(elements: Any) -> dict[str, Any]:
    """Elements by name; numbered where a name is there again or there is none."""
    named: dict[str, Any] = {}
    for number, element in enumerate(elements):
        fields = {field.name for field in element.DESCRIPTOR.fields}
        name = next((str(getattr(element, own)) for own in _NAMES if own in fields and getattr(element, own)), "")
        kind = f" ({element.op_type})" if "op_type" in fields else ""
        named[f"{name}{kind}" if name and f"{name}{kind}" not in named else f"{name}{kind}[{number}]"] = element
    return named


def _bytes(message: Any) -> bytes:
    if not hasattr(message, "SerializeToString"):
        return repr(message).encode(errors="surrogateescape")
    serialized: bytes = message.SerializeToString(deterministic=True)
    return serialized


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _data_differences(
    file: Path, places: Mapping[str, _Place], wanted: Mapping[str, ir.TensorProtocol]
) -> Iterator[str]:
    """Initializers whose bytes are not those that export writes, and bytes of the file that are of none."""
    size = file.stat().st_size
    stored: npt.NDArray[np.uint8] = np.memmap(file, np.uint8, "r") if size else np.empty(0, np.uint8)
    for name, tensor in wanted.items():
        place = places[name]
        if place.offset + place.length > size:
            yield f"initializer {name}: {DATA} is too short: {size} bytes, it ends at {place.offset + place.length}"
            continue
        array = tensor.numpy()
        own = _bytes_of(tensor)
        if len(own) != place.length:
            yield f"initializer {name}: found {place.length} bytes, export writes {len(own)}"
            continue
        there = stored[place.offset : place.offset + place.length]
        if (at := _first_difference(there, own)) is not None:
            yield f"initializer {name}{_number_at(at, there, tensor, array)}"
    yield from _uncovered(stored, sorted(places.values(), key=lambda place: place.offset))


def _bytes_of(tensor: ir.TensorProtocol) -> npt.NDArray[np.uint8]:
    """uint8 `[bytes]`, of the array itself where that can be."""
    array = tensor.numpy()
    if _is_plain(tensor) and array.size and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8)
    return np.frombuffer(tensor.tobytes(), np.uint8)


def _is_plain(tensor: ir.TensorProtocol) -> bool:
    """Whether numpy's bytes are those of the file."""
    return tensor.dtype.bitwidth >= 8 and tensor.nbytes == tensor.numpy().nbytes


def _first_difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> int | None:
    for start in range(0, len(a), _CHUNK):
        part, other = a[start : start + _CHUNK], b[start : start + _CHUNK]
        if not np.array_equal(part, other):
            return start + int(np.flatnonzero(part != other)[0])
    return None


def _number_at(at: int, there: npt.NDArray[np.uint8], tensor: ir.TensorProtocol, array: npt.NDArray[Any]) -> str:
    """Which number a byte is of, what is found and what export writes."""
    if not _is_plain(tensor):
        return f", byte {at}: found {there[at]}, export writes another"
    width = array.dtype.itemsize
    number = at // width
    found = np.frombuffer(there[number * width : (number + 1) * width].tobytes(), array.dtype)[0]
    place = [int(index) for index in np.unravel_index(number, array.shape)]
    return f", at {place}: found {found}, export writes {array[tuple(place)]}"


def _uncovered(stored: npt.NDArray[np.uint8], places: list[_Place]) -> Iterator[str]:
    """Bytes that are of no initializer, zeros between two apart; and initializers that share bytes."""
    end = 0
    for place in places:
        if place.offset < end:
            yield f"{DATA}, byte {place.offset}: two initializers share it"
        elif stored[end : place.offset].any():
            yield f"{DATA}, byte {end}: of no initializer"
        end = max(end, place.offset + place.length)
    if end < len(stored):
        yield f"{DATA}, byte {end}: of no initializer"
