"""Ways to spoil a folder that this tool wrote; sums are right again afterwards, so that contents alone are judged."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import safetensors.numpy
from onnx import helper, numpy_helper

from amtl_export.files import SUMS, write_sums

#: Changes a folder; False if it has nothing to change.
Spoil = Callable[[Path, random.Random], bool]

#: Keys of JSON files that a machine may state as it likes, or that say which version wrote a bundle.
FREE = ("onnxruntime", "run", "versions", "producer", "parity_on_samples", "notes", "environment")

#: Values that stand where others should.
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e300, "", "\x1b[2J\x1b]0;x\x07", "../../../etc/passwd", [], {}, [[]], {"a": 1}),
    *("é" * 5000, -0.5, "nan", [1, "a"], 2**63, "\u202edlrow"),
)


def _files(folder: Path, *suffixes: str) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != SUMS)
    return sorted(path for path in files if not suffixes or path.suffix in suffixes)


def _chosen(folder: Path, draw: random.Random, *suffixes: str) -> Path | None:
    files = _files(folder, *suffixes)
    return draw.choice(files) if files else None


def flip(folder: Path, draw: random.Random) -> bool:
    """Some bits of a file."""
    if (file := _chosen(folder, draw)) is None or not (data := bytearray(file.read_bytes())):
        return False
    for _ in range(draw.choice((1, 1, 3, 20))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return True


def truncate(folder: Path, draw: random.Random) -> bool:
    """The end of a file, or all of it."""
    if (file := _chosen(folder, draw)) is None or not (data := file.read_bytes()):
        return False
    file.write_bytes(data[: draw.choice((0, 1, draw.randrange(len(data)), len(data) - 1))])
    return True


def lengthen(folder: Path, draw: random.Random) -> bool:
    """More bytes at the end of a file."""
    if (file := _chosen(folder, draw)) is None:
        return False
    file.write_bytes(file.read_bytes() + draw.choice((b"\0", b"\n{}", b"\xff" * 9000)))
    return True


def remove(folder: Path, draw: random.Random) -> bool:
    """A file."""
    if (file := _chosen(folder, draw)) is None:
        return False
    file.unlink()
    return True


def swap(folder: Path, draw: random.Random) -> bool:
    """Two files, of one kind if there are."""
    first = _chosen(folder, draw)
    others = [] if first is None else [f for f in _files(folder) if f != first]
    if first is None or not others:
        return False
    second = draw.choice([f for f in others if f.suffix == first.suffix] or others)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return one != other


def link(folder: Path, draw: random.Random) -> bool:
    """A file becomes a link to what it was, elsewhere, or to a file of the machine."""
    if (file := _chosen(folder, draw)) is None:
        return False
    elsewhere = folder.with_name(f"{folder.name}-{file.name}")
    file.rename(elsewhere)
    file.symlink_to(draw.choice((elsewhere, Path("/etc/passwd"), folder, Path("/nowhere"))))
    return True


def folder_for_file(folder: Path, draw: random.Random) -> bool:
    """A file becomes a folder, or a pipe that nobody writes to."""
    if (file := _chosen(folder, draw)) is None:
        return False
    file.unlink()
    file.mkdir() if draw.random() < 0.5 else os.mkfifo(file)
    return True


def more_files(folder: Path, draw: random.Random) -> bool:
    """A file that nobody asked for."""
    name = draw.choice(("x", "vocab/x.parquet", "sitecustomize.py", "\x1b[31mred", "model.onnx.data2", "a\nb"))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    return True


def text(folder: Path, draw: random.Random) -> bool:
    """A JSON file is none: not UTF-8, bottomless, NaN, half a pair, a key twice, of one number of many digits."""
    if (file := _chosen(folder, draw, ".json", ".jsonl")) is None:
        return False
    was = file.read_bytes()
    odd = (
        b"\xff\xfe" + was,
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b"NaN",
        was.replace(b"1", b"NaN", 1),
        b'"\\ud800"',
        b"",
    )
    more = (
        b"[]",
        b"1" * 6000,
        b'{"a": 1, "a": 2}',
        b"null",
        was.replace(b"0", b"1e999", 1),
        was.replace(b"{", b"{,", 1),
    )
    made = draw.choice((*odd, *more))
    file.write_bytes(made)
    return made != was


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a JSON value, but below keys that are free."""
    if isinstance(value, dict):
        keys = [key for key in value if key not in FREE]
        return [p for key in keys for p in ((*at, key), *_places(value[key], (*at, key)))]
    if isinstance(value, list):
        return [p for i, own in enumerate(value[:4]) for p in ((*at, i), *_places(own, (*at, i)))]
    return []


def key(folder: Path, draw: random.Random) -> bool:
    """One key of a JSON file: gone, renamed, or with another value."""
    if (file := _chosen(folder, draw, ".json")) is None:
        return False
    try:
        values = json.loads(file.read_text())
    except ValueError:
        return False
    if not (places := _places(values)):
        return False
    *above, last = draw.choice(places)
    holder = values
    for step in above:
        holder = holder[step]
    was, how = holder[last], draw.randrange(4)
    if how == 0:
        del holder[last]
    elif how == 1 and isinstance(holder, dict):
        holder[f"{last}x"] = holder.pop(last)
    elif how == 2 and isinstance(was, (int, float)) and not isinstance(was, bool):
        holder[last] = draw.choice((was + 1, -was - 1, was * 1000 + 7, float(was) + 0.5))
    else:
        holder[last] = draw.choice([odd for odd in ODD if type(odd) is not type(was) or odd != was])
    file.write_text(json.dumps(values))
    return True


def column(folder: Path, draw: random.Random) -> bool:
    """A column of a Parquet file: gone, of another type, a value changed, rows in another order or missing."""
    if (file := _chosen(folder, draw, ".parquet")) is None:
        return False
    try:
        frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError:
        return False
    name = draw.choice(frame.columns)
    how = draw.randrange(6)
    if how == 0:
        made = frame.drop(name)
    elif how == 1:
        if frame[name].dtype.is_nested():
            return False
        made = frame.with_columns(pl.col(name).cast(pl.String))
    elif how == 2:
        made = frame.head(draw.randrange(len(frame)))
    elif how == 3:
        made = frame.reverse()
    elif how == 4:
        made = frame.with_columns(pl.lit(None).alias(name))
    else:
        values = frame[name].to_list()
        at = draw.randrange(len(values))
        if isinstance(values[at], list):
            return False
        values[at] = "\x1b[31m" if isinstance(values[at], str) else (values[at] or 0) + draw.choice((1, -1000, 2**40))
        try:
            made = frame.with_columns(pl.Series(name, values, strict=True))
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            return False
    made.write_parquet(file)
    return made.schema != frame.schema or not made.equals(frame)


def tensors(folder: Path, draw: random.Random) -> bool:
    """A safetensors file: a tensor gone, renamed, added, of another shape or type, NaN, huge."""
    if (file := _chosen(folder, draw, ".safetensors")) is None:
        return False
    try:
        held = safetensors.numpy.load_file(file)
    except Exception:  # spoilt before
        return False
    name = draw.choice(sorted(held))
    array = held.pop(name)
    how = draw.randrange(8)
    if how == 1:
        held[f"{name}x"] = array
    elif how == 2:
        held |= {name: array, "more": np.zeros(3, np.float32)}
    elif how == 3:
        held[name] = array.reshape(-1)[: max(1, array.size // 2)].copy()
    elif how == 4:
        held[name] = array.astype(np.float64)
    elif how == 5:
        held[name] = np.full_like(array, np.nan) if array.dtype.kind == "f" else array - 99
    elif how == 6:
        held[name] = (array * 1e30).astype(array.dtype) if array.dtype.kind == "f" else array + 10**6
    elif how == 7:
        held[name] = array[None].copy()
    file.write_bytes(safetensors.numpy.save(held))
    return True


def numbers(folder: Path, draw: random.Random) -> bool:
    """An array of encoded rows: other types, other shapes, ids outside their tables, objects."""
    if (file := _chosen(folder, draw, ".npy")) is None:
        return False
    try:
        array = np.load(file, allow_pickle=False)
    except ValueError:
        return False
    odd = (
        array.astype(np.int64) + 10**6 if array.dtype.kind in "iu" else -array,
        array[:-1],
        array.reshape(-1),
        array.astype(str),
    )
    made = draw.choice((*odd, array.astype(np.float64), np.zeros(0, array.dtype), array[..., None]))
    if draw.random() < 0.1:
        made = np.array([{}, None], dtype=object)
    np.save(file, made, allow_pickle=True)
    return True


def sums(folder: Path, draw: random.Random) -> bool:
    """SHA256SUMS itself."""
    file = folder / SUMS
    if not file.is_file():
        return False
    was = file.read_text()
    lines = was.splitlines(keepends=True)
    zeros = "0" * 64
    odd = ("", was + f"{zeros}  ../../etc/passwd\n", was + f"{zeros}  /etc/passwd\n", was.upper(), "\0", was + lines[0])
    file.write_text(draw.choice((*odd, "".join(lines[1:]), was.replace("  ", " "), was + f"{zeros}  \x1b[31m\n")))
    return True


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


def sample(folder: Path, draw: random.Random) -> bool:
    """A number of the samples."""
    files = sorted((folder / "test_data_set_0").glob("*.pb"))
    if not files:
        return False
    file = draw.choice(files)
    tensor = onnx.TensorProto.FromString(file.read_bytes())
    array = numpy_helper.to_array(tensor).copy()
    array[(0,) * array.ndim] += 5
    file.write_bytes(numpy_helper.from_array(array, tensor.name).SerializeToString())
    return True


#: Kind → how, of bundles.
BUNDLES: dict[str, Spoil] = {
    **{"bits": flip, "truncated": truncate, "longer": lengthen, "missing": remove, "swapped": swap, "link": link},
    **{"no-file": folder_for_file, "more-files": more_files, "json-text": text, "json-key": key, "columns": column},
    **{"sums": sums, "graph": graph, "samples": sample},
}

#: Of runs, frozen folders and unfinished trainings.
RUNS: dict[str, Spoil] = {
    **{"bits": flip, "truncated": truncate, "longer": lengthen, "missing": remove, "swapped": swap, "link": link},
    **{"no-file": folder_for_file, "more-files": more_files, "json-text": text, "json-key": key, "columns": column},
    **{"tensors": tensors, "rows": numbers},
}


def _of_graph(change: Callable[[onnx.ModelProto, random.Random], None]) -> Spoil:
    def spoil(folder: Path, draw: random.Random) -> bool:
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        change(model, draw)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return True

    return spoil


#: Kind → how, of what `validate` must not pass.
TAMPERED: dict[str, Spoil] = {
    **{change.__name__.replace("_", "-"): _of_graph(change) for change in GRAPHS},
    **{"json-key": key, "columns": column, "samples": sample, "missing": remove, "swapped": swap, "link": link},
    **{"more-files": more_files, "sums": sums, "truncated": truncate, "json-text": text},
}


def seal(folder: Path) -> None:
    """Make the sums right again."""
    if (folder / SUMS).is_file():
        try:
            write_sums(folder)
        except OSError:
            return


def spoil(folder: Path, kinds: dict[str, Spoil], draw: random.Random) -> str:
    """Spoil a folder in one way or several; the kinds.

    Args:
        folder: a copy.
        kinds: to draw from.
        draw: what draws.
    """
    done: list[str] = []
    while not done:
        for _ in range(draw.choice((1, 1, 1, 2))):
            kind = draw.choice(sorted(kinds))
            if kinds[kind](folder, draw):
                done.append(kind)
        if "sums" not in done and draw.random() < 0.9:
            seal(folder)
    return "+".join(done)
