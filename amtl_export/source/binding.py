"""How a user's module is called: an example bound to forward's parameters, flattened to named tensors."""

from __future__ import annotations

import inspect
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amtl_export.errors import InputError
from amtl_export.source.tree import Flat, Leaves, Path, Rebuild, flatten, names_of, written
from amtl_export.spec import BATCH, Feed, TensorSpec

#: Of a mapping that names no parameter and is no single argument either.
_IN_ORDER = (
    "the example names no parameter of forward, so its values are taken in order; "
    "give ({…},) where forward takes one mapping"
)

#: Input → axis → name of the dynamic dimension, or as `torch.export` has it; see `describe`.
DynamicShapes = Mapping[str, Any]

#: What an input of a graph may hold.
DTYPES = {
    torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8", torch.uint8: "uint8",
    torch.bool: "bool", torch.float32: "float32", torch.float64: "float64", torch.float16: "float16",
}  # fmt: skip


@dataclass(frozen=True)
class Binding:
    """How tensors become a call.

    Attributes:
        arguments: rebuilds (args, kwargs) from one tensor for each of `paths`.
        paths: forward's parameter, then keys and positions, of every tensor.
        example: the tensors of the example, by name.
        names: of the tensors.
        fix: what may be wrong with the example where a call fails; None if nothing is known.
    """

    arguments: Rebuild
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    example: dict[str, Tensor]
    fix: str | None = None

    def call(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """What the module answers to the tensors."""
        arguments, keywords = self.arguments(iter(tensors))
        return module(*arguments, **keywords)

    @property
    def feed(self) -> Feed:
        """The example as arrays."""
        return {name: tensor.cpu().numpy() for name, tensor in self.example.items()}


def bind(module: nn.Module, example: Any) -> Binding:
    """Bind an example to the parameters of `module.forward`.

    Args:
        module: whose forward.
        example: a mapping of parameter names to values; a tuple of values in order; one tensor. A mapping that names no
            parameter is taken in order, or as forward's only argument if that is one mapping. Values may be nested.

    Raises:
        InputError: some names are forward's and some are not, a required argument is missing, there are too many, or a
            value is not made of tensors.
    """
    signature = inspect.signature(module.forward)
    arguments, keywords, fix = _arguments(signature, example, type(module).__name__)
    leaves: Leaves = []
    named = _parameter_names(signature, len(arguments))
    positional = [flatten(value, (name,), leaves) for name, value in zip(named, arguments, strict=True)]
    by_name = {name: flatten(value, (name,), leaves) for name, value in keywords.items()}
    if not leaves:
        raise InputError("the example has no tensor", found=type(example).__name__, fix="give what forward takes")
    paths = tuple(path for path, _ in leaves)
    names = tuple(names_of(list(paths)))
    for name, (path, tensor) in zip(names, leaves, strict=True):
        if tensor.dtype not in DTYPES:
            raise InputError("an input has a type that graphs do not take", where=written(path), found=tensor.dtype)
        if not name:
            raise InputError("an input has an empty name", where=written(path), fix="rename the keys of the example")
        if len(set(names)) != len(names):
            raise InputError("two inputs have the same name", found=name, fix="rename the keys of the example")

    def rebuild(tensors: Iterator[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        return [part(tensors) for part in positional], {name: part(tensors) for name, part in by_name.items()}

    tensors = {name: tensor for name, (_, tensor) in zip(names, leaves, strict=True)}
    return Binding(rebuild, paths, names, tensors, fix)


def _arguments(
    signature: inspect.Signature, example: Any, where: str
) -> tuple[tuple[Any, ...], dict[str, Any], str | None]:
    """The example as args and kwargs of forward, and what may be wrong with it where a call fails."""
    kinds = inspect.Parameter
    parameters = list(signature.parameters.values())
    anything = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    alone = [p.name for p in parameters if p.kind is kinds.POSITIONAL_ONLY]
    by_name = {p.name for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)}
    needed = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    if not isinstance(example, Mapping):
        if hasattr(example, "_fields") and len(needed) == 1 < len(example):  # forward(features), a NamedTuple
            example = (example,)
        return *_checked(signature, example if isinstance(example, tuple) else (example,), {}, where), None
    matching = [name for name in example if name in by_name]
    if len(matching) == len(example) or anything:
        first = tuple(example[name] for name in itertools.takewhile(example.__contains__, alone))
        rest = {name: value for name, value in example.items() if name not in alone[: len(first)]}
        return *_checked(signature, first, rest, where), None
    if matching:
        raise InputError(
            "some names of the example are parameters of forward, and some are not",
            where=where,
            found=", ".join(str(name) for name in example if name not in by_name),
            allowed=", ".join(sorted(by_name)),
            fix="name the inputs as forward does",
        )
    if len(needed) == 1 and len(example) > 1:  # forward(features) and what it looks up in them
        return (dict(example),), {}, None
    return *_checked(signature, tuple(example.values()), {}, where, _IN_ORDER), _IN_ORDER


def _checked(
    signature: inspect.Signature,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    where: str,
    fix: str | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise InputError(
            "the example does not fit forward", where=where, found=error, allowed=f"forward{signature}", fix=fix
        ) from None
    return arguments, keywords


def _parameter_names(signature: inspect.Signature, count: int) -> list[str]:
    """Names for `count` positional arguments; those behind `*args` are numbered."""
    kinds = inspect.Parameter
    plain = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in signature.parameters.values() if p.kind in plain]
    rest = next((p.name for p in signature.parameters.values() if p.kind is kinds.VAR_POSITIONAL), "input")
    return (named + [f"{rest}_{i}" for i in range(count)])[:count]


def describe(binding: Binding, dynamic_shapes: DynamicShapes | None = None) -> tuple[TensorSpec, ...]:
    """The inputs, with the dimensions that may change named.

    Unless `dynamic_shapes` says otherwise, the batch is the first dimension of an input if that is as large as most
    inputs', else a later one of that size; a first dimension of another size is one of its own, and of 1 it is fixed,
    as all others are.

    Args:
        binding: of the example.
        dynamic_shapes: input → axis → name of the dimension; the same name is the same size. Or as `torch.export` takes
            them: forward's parameter → the structure of its value, with axes and `Dim`s in it.

    Raises:
        InputError: an unknown input or axis, a dimension of different sizes, or one of fewer than 2 in the example.
    """
    if not isinstance(dynamic_shapes or {}, Mapping):
        raise InputError("dynamic_shapes", found=type(dynamic_shapes).__name__, allowed="input → axis → name")
    chosen = dict(dynamic_shapes or {})
    known = {*binding.names, *(path[0] for path in binding.paths)}
    if unknown := sorted(set(chosen) - known):
        raise InputError("dynamic_shapes: unknown inputs", found=unknown, allowed=", ".join(binding.names))
    batch = _batch_of(binding)
    specs = []
    for name, path in zip(binding.names, binding.paths, strict=True):
        tensor = binding.example[name]
        stated = _stated(chosen, name, path)
        axes = _axes(name, tensor, stated, batch) if stated is not None else _default_axes(name, path, tensor, batch)
        shape = tuple(axes.get(axis) or size for axis, size in enumerate(tensor.shape))
        specs.append(TensorSpec(name, DTYPES[tensor.dtype], shape, source=name, path=path))
    _check_sizes(binding, specs)
    return tuple(specs)


def _stated(chosen: dict[str, Any], name: str, path: Path) -> Any:
    """What `dynamic_shapes` says of an input, by its name or within the structure of its parameter; None if nothing."""
    if name in chosen:
        return chosen[name]
    node = chosen.get(str(path[0]))
    for part in path[1:]:
        if isinstance(part, int):
            node = node[part] if isinstance(node, (list, tuple)) and part < len(node) else node
        elif isinstance(node, Mapping):
            node = node.get(part, node)
        elif part in getattr(node, "_fields", ()):
            node = getattr(node, part)
    return node


def _axes(name: str, tensor: Tensor, stated: Any, batch: int) -> dict[int, str]:
    """Axis → name of its dimension, from {axis: name} or one name for each axis.

    Raises:
        InputError: an axis that the input does not have.
    """
    if not isinstance(stated, (Mapping, list, tuple)):
        raise InputError("dynamic_shapes: axes of an input", where=name, found=stated, allowed="{axis: name}")
    given = dict(stated) if isinstance(stated, Mapping) else dict(enumerate(stated))
    given = {axis: own for axis, own in given.items() if not isinstance(own, int) and "STATIC" not in str(own)}
    if wrong := [axis for axis in given if axis not in range(tensor.ndim)]:
        raise InputError("dynamic_shapes: no such axis", where=name, found=wrong, allowed=f"0..{tensor.ndim - 1}")
    return {axis: _dimension(own, name, axis, tensor.shape[axis] == batch) for axis, own in given.items() if own}


def _dimension(own: Any, name: str, axis: int, as_batch: bool) -> str:
    """A dimension's name as an identifier; `Dim`s have one, `Dim.DYNAMIC` has not."""
    text = own if isinstance(own, str) else getattr(own, "__name__", BATCH if as_batch else f"{name}_{axis}")
    return re.sub(r"\W", "_", text)


def _batch_of(binding: Binding) -> int:
    """The size above 1 that most inputs have on some axis, the first of them where several do; 0 if there is none."""
    own = [t for t, path in zip(binding.example.values(), binding.paths, strict=True) if not isinstance(path[-1], Flat)]
    several = [tensor for tensor in own if tensor.ndim and len(tensor) > 1]
    sizes = Counter(size for tensor in several for size in dict.fromkeys(tensor.shape) if size > 1)
    return max(sizes, key=lambda size: sizes[size]) if sizes else 0


def _default_axes(name: str, path: Path, tensor: Tensor, batch: int) -> dict[int, str]:
    rows = {0: f"{name}_rows"}
    if isinstance(path[-1], Flat):
        return rows
    if tensor.ndim and len(tensor) == 1:
        return {}
    later = next((axis for axis, size in enumerate(tensor.shape) if size == batch), None)
    if later is not None:
        return {later: BATCH}
    return rows if tensor.ndim else {}


def _check_sizes(binding: Binding, specs: Sequence[TensorSpec]) -> None:
    sizes: dict[str, int] = {}
    for spec in specs:
        for size, wanted in zip(binding.example[spec.name].shape, spec.shape, strict=True):
            if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
                raise InputError(
                    f"the example has two sizes of the dimension {wanted}",
                    where=spec.name,
                    found=size,
                    allowed=sizes[wanted],
                )
    if not sizes or min(sizes.values()) < 2:
        raise InputError(
            "the example has fewer than 2 rows",
            found=sizes or {spec.name: list(spec.shape) for spec in specs},
            allowed="at least 2 of every dimension that may change",
        )


def same_structure(feed: Feed, specs: Sequence[TensorSpec]) -> Feed:
    """A feed of these inputs, in their types.

    Raises:
        InputError: it has other tensors.
    """
    if (found := sorted(feed)) != (allowed := sorted(spec.source for spec in specs)):
        raise InputError("inputs of another structure than the example's", found=found, allowed=allowed)
    feed = dict(feed)
    for spec in specs:
        given = feed[spec.source]
        if given.dtype != spec.dtype and not np.can_cast(given.dtype, spec.dtype):
            raise InputError(
                "an input has another type than the example's", where=spec.source, found=given.dtype, allowed=spec.dtype
            )
        feed[spec.source] = given.astype(spec.dtype, copy=False)
    return feed


def nested(feed: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Flat inputs as forward takes them, put together by their paths: dicts and lists alone.

    Args:
        feed: input → array.
        specs: of the inputs.
    """
    root: dict[str | int, Any] = {}
    for spec in specs:
        node = root
        for part in spec.path[:-1]:
            node = node.setdefault(part, {})
        node[spec.path[-1]] = feed[spec.name]
    return {str(name): _listed(value) for name, value in root.items()}


def _listed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    parts = {key: _listed(value) for key, value in node.items()}
    return [parts[i] for i in range(len(parts))] if parts and all(isinstance(key, int) for key in parts) else parts
