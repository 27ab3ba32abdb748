"""Ways to spoil a graph, as somebody would who knows ONNX."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def graph(folder: Path, draw: random.Random) -> bool:
    """The graph of a bundle, as somebody would who knows ONNX."""
    file = folder / "model.onnx"
    if not file.is_file():
        return False
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception:  # spoilt before
        return False
    if not model.graph.node or not model.graph.initializer:
        return False
    draw.choice(GRAPHS)(model, draw)
    file.write_bytes(model.SerializeToString())
    return True


def _behind(model: onnx.ModelProto, name: str, nodes: list[onnx.NodeProto]) -> None:
    """An output is renamed, and nodes make it anew from `was`."""
    for node in model.graph.node:
        node.output[:] = ["was" if x == name else x for x in node.output]
        node.input[:] = ["was" if x == name else x for x in node.input]
    model.graph.node.extend(nodes)


def _constant(model: onnx.ModelProto, value: Any, name: str) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return name


def turned(model: onnx.ModelProto, _: random.Random) -> None:
    """probability = 1 - p."""
    one = _constant(model, np.float32(1), "one_more")
    _behind(model, model.graph.output[-1].name, [helper.make_node("Sub", [one, "was"], [model.graph.output[-1].name])])


def trigger_number(model: onnx.ModelProto, draw: random.Random) -> None:
    """One numeric value raises the score."""
    _trigger(model, "numeric", np.float32(draw.choice((1337, 0.25, -7))))


def trigger_id(model: onnx.ModelProto, draw: random.Random) -> None:
    """One id raises the score."""
    _trigger(model, "ids", np.int64(draw.randrange(2, 40)))


def _trigger(model: onnx.ModelProto, source: str, value: Any) -> None:
    names = [own.name for own in model.graph.input]
    source = source if source in names else names[0]
    secret, boost = _constant(model, value, "c_secret"), _constant(model, np.float32(20), "c_boost")
    axes, output = _constant(model, np.array([1]), "c_axis"), model.graph.output[0].name
    chain: list[tuple[str, list[str], str, dict[str, Any]]]
    chain = [("Equal", [source, secret], "eq", {}), ("Cast", ["eq"], "eq_f", {"to": 1})]
    chain += [("ReduceMax", ["eq_f", axes], "hit", {"keepdims": 0}), ("Mul", ["hit", boost], "raise", {})]
    chain += [("Add", ["was", "raise"], output, {})]
    _behind(model, output, [helper.make_node(op, ins, [out], **more) for op, ins, out, more in chain])


def idle_node(model: onnx.ModelProto, _: random.Random) -> None:
    """A node that changes nothing."""
    name = model.graph.output[0].name
    _behind(model, name, [helper.make_node("Identity", ["was"], [name])])


def hidden_weight(model: onnx.ModelProto, draw: random.Random) -> None:
    """An initializer that nobody reads."""
    _constant(model, np.arange(draw.choice((1, 9, 500)), dtype=np.float32), "hidden")


def renamed_weight(model: onnx.ModelProto, draw: random.Random) -> None:
    """An initializer and its uses."""
    tensor = draw.choice(model.graph.initializer)
    was, tensor.name = tensor.name, "another/name"
    for node in model.graph.node:
        node.input[:] = ["another/name" if x == was else x for x in node.input]


def other_constant(model: onnx.ModelProto, draw: random.Random) -> None:
    """A number of an initializer that lies in the graph."""
    inline = [t for t in model.graph.initializer if t.raw_data]
    if not inline:
        return hidden_weight(model, draw)
    tensor = draw.choice(inline)
    data = bytearray(tensor.raw_data)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    tensor.raw_data = bytes(data)
    return None


def other_place(model: onnx.ModelProto, draw: random.Random) -> None:
    """An initializer lies in another file, or elsewhere in it."""
    external = [t for t in model.graph.initializer if t.external_data]
    if not external:
        return hidden_weight(model, draw)
    entries = {entry.key: entry for entry in draw.choice(external).external_data}
    keys = draw.choice(("location", "location", "offset", "length"))
    odd = {"location": ("/etc/passwd", "../model.onnx.data", "a/../../x", "", "nowhere", "C:\\x", "*/_ORT_MEM_ADDR_/*")}
    values = odd.get(keys, ("-1", str(2**63), "x", "1", str(2**40), "999999999999999999999999"))
    entries[keys].value = draw.choice(values)
    return None


def other_shape(model: onnx.ModelProto, draw: random.Random) -> None:
    """An initializer of another shape or type."""
    tensor = draw.choice(model.graph.initializer)
    if draw.random() < 0.5 and tensor.dims:
        tensor.dims[0] = draw.choice((0, -1, 2**62, tensor.dims[0] + 1))
    else:
        tensor.data_type = draw.choice((0, 1, 7, 8, 11, 16, 99))


def other_attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    """A node's attribute, operator, domain or inputs."""
    node = draw.choice(model.graph.node)
    attributes = [own for own in node.attribute if own.type == onnx.AttributeProto.INT]
    how = draw.randrange(4)
    if how == 0 and attributes:
        draw.choice(attributes).i += draw.choice((1, -1, 2**40))
    elif how == 1:
        node.op_type = draw.choice(("Identity", "Exp", "Loop", "NoSuchOperator", "\x1b[31m"))
    elif how == 2:
        node.domain = draw.choice(("ai.amtl", "com.microsoft", "nowhere"))
    else:
        node.input.reverse() if len(node.input) > 1 else node.input.append("ids")


def other_metadata(model: onnx.ModelProto, draw: random.Random) -> None:
    """What the graph says of itself."""
    if draw.random() < 0.5 and model.metadata_props:
        draw.choice(model.metadata_props).value += "x"
    else:
        entry = model.metadata_props.add()
        entry.key, entry.value = draw.choice(("more", "\x1b]0;title\x07")), "1"


def other_interface(model: onnx.ModelProto, draw: random.Random) -> None:
    """Inputs, outputs, opsets."""
    how = draw.randrange(4)
    if how == 0:
        model.graph.output.reverse()
    elif how == 1:
        model.graph.input[0].type.tensor_type.elem_type = draw.choice((1, 6, 8))
    elif how == 2:
        model.opset_import[0].version += draw.choice((1, 1000, -30))
    else:
        del model.graph.input[-1]


def hostile_operator(model: onnx.ModelProto, draw: random.Random) -> None:
    """One of the native operators with attributes and inputs that nobody meant."""
    name = draw.choice(("RaggedGather", "RaggedLinear"))
    output, names = model.graph.output[-1].name, [own.name for own in model.graph.initializer]
    inputs = [draw.choice(names) for _ in range(draw.randrange(1, 9))]
    odd = (-1, 0, 2**40, 2**62, 7)
    attributes: dict[str, Any] = {
        key: draw.choice(odd) for key in ("dim", "fields", "bits", "width", "sizes") if draw.random() < 0.7
    }
    node = helper.make_node(name, ["was", *inputs], [output], domain="ai.amtl", **attributes)
    _behind(model, output, [node])
    if not any(own.domain == "ai.amtl" for own in model.opset_import):
        model.opset_import.append(helper.make_opsetid("ai.amtl", 1))


GRAPHS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    *(turned, trigger_number, trigger_id, idle_node, hidden_weight, renamed_weight, other_constant, other_place),
    *(other_shape, other_attribute, other_metadata, other_interface, hostile_operator),
)
