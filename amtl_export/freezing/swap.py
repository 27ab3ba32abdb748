"""Freezing a user's module: a copy of it whose embedding tables are constants, and all else is as it was.

No module is replaced. A module that holds a table gets a generated subclass of its own class, as
`torch.nn.utils.parametrize` does it, in which `weight` is the frozen table: hooks, subclasses and whoever else reads
`module.weight` keep working. A plain `nn.Embedding` or `nn.EmbeddingBag` reads the rows of its ids alone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from amtl_export.errors import InputError
from amtl_export.freezing.pooling import pool
from amtl_export.freezing.table import CodedEmbedding, FrozenEmbedding
from amtl_export.models.attach import is_attached, is_hidden, release
from amtl_export.models.ordered import OrderedEmbedding
from amtl_export.models.protocol import Freezable
from amtl_export.scratch import scratch

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_COMPUTED = "its weight is computed"

#: The attribute of a module that holds its frozen table.
TABLE = "frozen_table"


@dataclass(frozen=True)
class Holder:
    """A module that holds a table, and the name that the table's parameter has there."""

    path: str
    name: str


@dataclass(frozen=True)
class Table:
    """A weight that ids are looked up in.

    Attributes:
        path: of the first module that holds it.
        weight: the parameter.
        holders: every module that holds it.
    """

    path: str
    weight: nn.Parameter
    holders: tuple[Holder, ...]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile.

    Raises:
        InputError: a wrapper whose module cannot be reached so, a layer that PyTorch has quantized, or weights that are
            sharded.
    """
    inner = _INSIDE.get(type(module).__name__)
    while inner is not None:
        module = getattr(module, inner)
        inner = _INSIDE.get(type(module).__name__)
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(
                "a TorchScript module cannot be frozen",
                where=name or None,
                found=type(part).__name__,
                fix="give the module as it was before torch.jit",
            )
        if type(part).__module__.startswith(_QUANTIZED):
            raise InputError(
                "a layer is quantized already",
                where=name or None,
                found=type(part).__qualname__,
                fix="give the float32 module; layer_dtype='int8' quantizes its layers",
            )
    for name, parameter in module.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or type(parameter).__name__ == "DTensor":
            raise InputError(
                "a parameter is sharded (DTensor)", where=name, fix="gather the full state dict into a plain module"
            )
    return module


#: Where PyTorch's quantized layers are.
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")

#: Wrapper → the attribute with the module inside.
_INSIDE = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


def tables_of(module: nn.Module) -> list[Table]:
    """The tables of `nn.Embedding`s and `nn.EmbeddingBag`s, each weight once.

    One with `max_norm`, a computed weight (a parametrization, or an attribute of the class in front of the parameter)
    or the mode `max` is none: it stays what it is.
    """
    hidden = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if not is_attached(part) and is_hidden(part, name)
    }
    first: dict[int, str] = {}
    for path, part in module.named_modules():
        if _is_table(part) and id(_weight(part)) not in hidden:
            first.setdefault(id(_weight(part)), path)
    holders: dict[int, list[Holder]] = {key: [] for key in first}
    weights: dict[int, nn.Parameter] = {}
    for path, part in module.named_modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) in first:
                holders[id(parameter)].append(Holder(path, name))
                weights[id(parameter)] = parameter
    return [Table(path, weights[key], tuple(holders[key])) for key, path in first.items()]


def passed_over(module: nn.Module) -> dict[str, str]:
    """Path of each `nn.Embedding` and `nn.EmbeddingBag` that is none of `tables_of` → why, but for our own tables."""
    kept = {holder.path for table in tables_of(module) for holder in table.holders}
    return {
        path: _why_kept(part) or _COMPUTED
        for path, part in module.named_modules()
        if isinstance(part, _EMBEDDINGS) and path not in kept and not _is_ours(part)
    }


def _weight(module: nn.Module) -> nn.Parameter | None:
    return module._parameters.get("weight")


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, _EMBEDDINGS) and not _is_ours(module) and not _why_kept(module)


def _is_ours(module: nn.Module) -> bool:
    return (isinstance(module, Freezable) or "amtl_name" in vars(type(module))) and not is_attached(module)


def _why_kept(module: nn.Embedding | nn.EmbeddingBag) -> str:
    """Why an embedding stays what it is; empty if its weight is a table."""
    computed = parametrize.is_parametrized(module, "weight") or _weight(module) is None
    return _COMPUTED if computed else _why_unfit(module)


def _why_unfit(module: nn.Embedding | nn.EmbeddingBag) -> str:
    if module.max_norm is not None:
        return "max_norm rewrites its rows as they are read"
    return "a bag of mode max compares numbers of rows" if getattr(module, "mode", "") == "max" else ""


def frozen_tables(module: nn.Module) -> dict[str, FrozenEmbedding]:
    """Path in a module → frozen table; of a user's module, the path that `tables_of` gave it: an embedding's.

    A layer that holds the same weight may come before the embedding.
    """
    paths: dict[FrozenEmbedding, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, FrozenEmbedding):
            paths.setdefault(part, []).append(_path(name))
    return {
        min(own, key=lambda path: _reads_no_rows(module.get_submodule(path))): table for table, own in paths.items()
    }


def _reads_no_rows(holder: nn.Module) -> bool:
    """Whether a module that holds a frozen table is no embedding that could be frozen."""
    return not isinstance(holder, _EMBEDDINGS) or bool(_why_unfit(holder))


def _path(name: str) -> str:
    """Where the table is, from where its rows are: without what a basis and a user's module put in between."""
    name = name.removesuffix(".coded")
    return name.rpartition(".")[0] if name.rpartition(".")[2].startswith(TABLE) else name


def check_types(module: nn.Module) -> None:
    """Refuse what graphs of this tool do not compute in.

    Raises:
        InputError: a parameter of another floating type than float32, one without data, or a buffer of a type that
            NumPy does not have.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise InputError("a lazy layer has no shape yet", where=name, fix="run the model once, then freeze it")
    for name, buffer in module.named_buffers():
        if buffer.dtype in _UNKNOWN:
            raise InputError(
                "a buffer is of a type that graphs do not hold", where=name, found=buffer.dtype, fix=_FLOAT
            )
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise InputError("a parameter has no data (meta device)", where=name, fix="load the weights first")
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise InputError(
                "a parameter is not float32",
                where=name,
                found=parameter.dtype,
                allowed="torch.float32",
                fix=f"{_FLOAT}; stored values can be fp16, int8 or int4: ExportConfig(dtype=…)",
            )


#: Types of a buffer that NumPy does not have.
_UNKNOWN = {kind for name, kind in vars(torch).items() if name.startswith(("bfloat16", "float8", "float4"))}

_FLOAT = "module.float()"


@torch.no_grad()
def freeze_module(module: nn.Module, *, shared: bool = False) -> nn.Module:
    """A copy in evaluation mode, its tables frozen, nothing left of selection networks.

    Embedding methods of this project (`Freezable`) are replaced by a `FrozenEmbedding`, and an `OrderedEmbedding` by a
    `CodedEmbedding`.

    Args:
        module: trained.
        shared: whether constants may lie in the memory of the module's weights, which nobody changes then.

    Raises:
        InputError: the module cannot be copied, a type is not float32, or rows and dims contradict each other.
    """
    module = unwrapped(module)
    check_types(module)
    tables = tables_of(module)
    frozen = {table.path: _frozen(module.get_submodule(table.path), shared) for table in tables}
    memo: dict[int, Any] = {id(table.weight): nn.Parameter(torch.empty(0)) for table in tables}
    memo |= _methods(module, shared) | _activations(module)
    try:
        made = copy.deepcopy(module, memo)
    except Exception as error:  # whatever an attribute of the user's raises
        raise InputError(
            "the module cannot be copied", where=type(module).__name__, found=error, fix="remove what has no deepcopy"
        ) from error
    _refuse_same_modules(module, made)
    for table in tables:
        for holder in table.holders:
            _swap(made.get_submodule(holder.path), holder.name, frozen[table.path])
    return made.eval().cpu().requires_grad_(False)


def _refuse_same_modules(module: nn.Module, made: nn.Module) -> None:
    """Refuse a copy that has modules of the original's, which freezing would change: those that hold something."""
    own = {id(part): name for name, part in module.named_modules()}
    for part in made.modules():
        if id(part) in own and (part._parameters or part._buffers or part._modules):
            raise InputError(
                "the module cannot be copied",
                where=own[id(part)] or type(module).__name__,
                found=f"the __deepcopy__ of {type(part).__name__}, or of what holds it, gives the module itself",
                fix="let __deepcopy__ give a copy",
            )


def _frozen(module: nn.Module, shared: bool) -> FrozenEmbedding:
    """The table of an embedding, attached or plain, as constants."""
    weight = _weight(module)
    assert weight is not None
    V, D = weight.shape
    if is_attached(module):
        rows, dims = module.frozen_rows(), module.frozen_dims()  # type: ignore[operator]  # attached: it has them
    else:
        rows, dims = weight.detach(), torch.from_numpy(scratch((V,), np.int64)).fill_(D)
        padding = module.padding_idx
        if isinstance(padding, int) and not bool(rows[padding].any()):
            dims[padding] = 0
    return FrozenEmbedding(rows.cpu(), dims.cpu(), (V,), (0,), shared=shared or not _lies_in(module, rows))


def _lies_in(module: Any, rows: Tensor) -> bool:
    """Whether rows are in the memory of a module's own tensors."""
    tensors = (tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.layout is torch.strided)
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    return rows.untyped_storage().data_ptr() in own


def _methods(module: nn.Module, shared: bool) -> dict[int, Any]:
    """This project's embedding methods → their constants."""
    made: dict[int, Any] = {}
    for name, part in module.named_modules():
        if isinstance(part, Freezable) and not is_attached(part):
            try:
                rows, dims = part.frozen_rows(), part.frozen_dims().clone()
                alone = shared or not _lies_in(part, rows)
                made[id(part)] = FrozenEmbedding(rows, dims, part.sizes, part.offsets, shared=alone)
            except ValueError as error:
                raise InputError("an embedding method's rows and dims disagree", where=name, found=error) from None
    for part in module.modules():
        if isinstance(part, OrderedEmbedding):
            made[id(part)] = CodedEmbedding(made[id(part.rows)], part.all_bases(), part.basis_of)
    return made


def _activations(module: nn.Module) -> dict[int, Any]:
    """Tensors that a module kept from its last forward, which `copy.deepcopy` refuses → the same without a history."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in _tensors(vars(part)):
            if value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    return memo


def _tensors(value: Any, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part, depth - 1)


def _swap(module: nn.Module, name: str, table: FrozenEmbedding) -> None:
    """Let a module read a frozen table where it had a parameter."""
    if isinstance(module, FrozenEmbedding):
        return
    release(module)
    cls: Any = type(module)
    module.__class__ = _frozen_class(cls, name)
    module._parameters.pop(name, None)
    module._modules[_attribute(name)] = table


def _attribute(name: str) -> str:
    """Where a module holds the table that stands for one of its parameters."""
    return TABLE if name == "weight" else f"{TABLE}_{name}"


@torch.no_grad()
def thawed(module: nn.Module) -> nn.Module:
    """A copy of a frozen user's module with its rows in ordinary parameters again, every class the user's own."""
    weights: dict[int, nn.Parameter] = {}
    made = copy.deepcopy(module, {id(p.rows): p.rows for p in module.modules() if isinstance(p, FrozenEmbedding)})
    for part in list(made.modules()):
        while "amtl_name" in vars(type(part)):
            name = vars(type(part))["amtl_name"]
            table = part._modules.pop(_attribute(name))
            assert isinstance(table, FrozenEmbedding)
            part.__class__ = type(part).__bases__[-1]
            weight = weights.setdefault(id(table), nn.Parameter(table.rows, requires_grad=False))
            part._parameters[name] = weight
    return made.eval()


class _Unannounced(nn.Module):
    """First among the bases of a generated class: an `__init_subclass__` of the user's does not hear of it."""

    def __init_subclass__(cls, **_: Any) -> None:
        pass


@functools.cache
def _frozen_class(cls: Any, name: str) -> Any:
    members: dict[str, Any] = {"amtl_name": name, name: property(lambda self: self._modules[_attribute(name)].whole())}
    forward: Callable[..., Any] | None = _FORWARD.get(cls.forward)
    if forward is not None:
        members["forward"] = forward
    try:
        return type(f"Frozen{cls.__name__}", (_Unannounced, cls), members)
    except Exception as error:  # whatever a metaclass of the user's raises
        raise InputError("a class has no subclass, which freezing needs", where=cls.__name__, found=error) from error


def _embedding(self: Any, input: Tensor) -> Tensor:
    """`nn.Embedding.forward` of a frozen table."""
    rows: Tensor = self._modules[TABLE](input)
    return rows


def _bag(self: Any, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
    """`nn.EmbeddingBag.forward` of a frozen table."""
    return pool(
        self._modules[TABLE](input),
        input,
        offsets,
        per_sample_weights,
        mode=self.mode,
        padding=self.padding_idx,
        include_last_offset=self.include_last_offset,
    )


#: Forwards that are known → the same of a frozen table, which reads the rows of its ids alone.
_FORWARD: dict[Callable[..., Any], Callable[..., Any]] = {
    nn.Embedding.forward: _embedding,
    nn.EmbeddingBag.forward: _bag,
}
