"""Ways to spoil what files say: JSON, Parquet, safetensors, arrays, samples."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import safetensors.numpy
from onnx import numpy_helper

from attack.spoil.contents import chosen

#: Keys of JSON files that a machine may state as it likes, or that say which version wrote a bundle.
FREE = ("onnxruntime", "run", "versions", "producer", "parity_on_samples", "notes", "environment")

#: Values that stand where others should.
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e300, "", "\x1b[2J\x1b]0;x\x07", "../../../etc/passwd", [], {}, [[]], {"a": 1}),
    *("é" * 5000, -0.5, "nan", [1, "a"], 2**63, "\u202edlrow"),
)


def text(folder: Path, draw: random.Random) -> bool:
    """A JSON file is none: not UTF-8, bottomless, NaN, half a pair, a key twice, of one number of many digits."""
    if (file := chosen(folder, draw, ".json", ".jsonl")) is None:
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
    if (file := chosen(folder, draw, ".json")) is None:
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
    if (file := chosen(folder, draw, ".parquet")) is None:
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
    if (file := chosen(folder, draw, ".safetensors")) is None:
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
    if (file := chosen(folder, draw, ".npy")) is None:
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
