"""Nested arguments as a flat list of tensors, and back."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amtl_export.errors import InputError

Path = tuple[str | int, ...]


class Flat(str):
    """A key of values that belong to examples by lengths or offsets: they have no batch in front."""

    __slots__ = ()


Leaves = list[tuple[Path, Tensor]]
#: Takes one tensor for each leaf, in order, and gives the structure.
Rebuild = Callable[[Iterator[Tensor]], Any]


def flatten(value: Any, path: Path, leaves: Leaves) -> Rebuild:
    """Append a structure's tensors to `leaves`, and say how it is put together again.

    Args:
        value: tensors, numpy arrays, and dicts, lists, tuples, dataclasses of them; other plain values are constants.
        path: of `value`: forward's parameter, then keys and positions.
        leaves: path and tensor of every leaf so far.

    Raises:
        InputError: an object that is none of these.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if isinstance(value, Tensor):
        leaves.append((path, value.detach()))
        return next
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return lambda _: value
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, (str, int))]:
            raise InputError("a key of the example is no name", where=written(path), found=odd[0], allowed="str or int")
        return _of_mapping(value, {key: flatten(part, (*path, key), leaves) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        parts = [flatten(part, (*path, name), leaves) for name, part in zip(names, value, strict=True)]
        return _of_sequence(value, parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return _of_dataclass(value, {name: flatten(getattr(value, name), (*path, name), leaves) for name in names})
    if type(value).__name__ in ("KeyedJaggedTensor", "JaggedTensor"):
        return _of_jagged(value, path, leaves)
    raise InputError(
        "an argument of the model holds something that is no tensor",
        where=written(path),
        found=type(value).__name__,
        allowed="tensors, numpy arrays, numbers, None; dicts, lists, tuples and dataclasses of them",
        fix="wrap the model in a module whose forward takes tensors and makes the object from them",
    )


def _of_mapping(value: Mapping[Any, Any], parts: dict[Any, Rebuild]) -> Rebuild:
    def rebuild(tensors: Iterator[Tensor]) -> Any:
        items = {key: part(tensors) for key, part in parts.items()}
        if isinstance(value, defaultdict):
            return defaultdict(value.default_factory, items)
        return items if type(value) is dict else type(value)(items)  # type: ignore[call-arg]

    return rebuild


def _of_sequence(value: Any, parts: list[Rebuild]) -> Rebuild:
    named = hasattr(value, "_fields")
    return lambda tensors: (
        type(value)(*(part(tensors) for part in parts)) if named else type(value)(part(tensors) for part in parts)
    )


def _of_dataclass(value: Any, parts: dict[str, Rebuild]) -> Rebuild:
    def rebuild(tensors: Iterator[Tensor]) -> Any:
        made = copy.copy(value)
        for name, part in parts.items():
            object.__setattr__(made, name, part(tensors))  # frozen ones too
        return made

    return rebuild


def _of_jagged(value: Any, path: Path, leaves: Leaves) -> Rebuild:
    """Values, lengths, and weights if there are any."""
    weights = value.weights_or_none()
    parts = {"values": value.values(), "lengths": value.lengths()} | ({} if weights is None else {"weights": weights})
    builders = {name: flatten(part, (*path, Flat(name)), leaves) for name, part in parts.items()}
    keys = {"keys": list(value.keys())} if hasattr(value, "keys") else {}
    return lambda tensors: type(value)(**keys, **{name: part(tensors) for name, part in builders.items()})


def written(path: Path) -> str:
    """A path as people write it: `features.history.0`."""
    return ".".join(str(part) for part in path)


def names_of(paths: list[Path]) -> list[str]:
    """Names of tensors: the last key where that is enough to tell them apart, else the whole path, with `_` between.

    A position in a list follows the list's name: `history_0`.
    """
    short = ["_".join(map(str, path[_last_key(path) :])) for path in paths]
    often = Counter(short)
    return [name if often[name] == 1 else "_".join(map(str, path)) for name, path in zip(short, paths, strict=True)]


def _last_key(path: Path) -> int:
    return max((i for i, part in enumerate(path) if isinstance(part, str)), default=0)
