"""Which tables a model reads, with which ids, and what it reads that is none, seen by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from amtl_export.freezing.table import FrozenEmbedding

_LOOKUP, _WHOLE = torch.ops.amtl.lookup.default, torch.ops.amtl.whole_table.default


class _Reads(TorchDispatchMode):
    """Notes the identity of the rows of every lookup, and of tables that are read whole.

    Not their address: several tables may lie in one memory.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.read: set[int] = set()
        self.whole: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_LOOKUP, _WHOLE):
            (self.read if func is _LOOKUP else self.whole).add(id(args[0]))
        return func(*args, **(kwargs or {}))


def tables_read(tables: Mapping[str, FrozenEmbedding], run: Callable[[], Any]) -> tuple[set[str], set[str]]:
    """Paths of the tables that a call looks ids up in, and of those that it reads whole.

    Args:
        tables: path → frozen table.
        run: the call.
    """
    with _Reads() as reads:
        run()
    return {path for path, table in tables.items() if id(table.rows) in reads.read}, {
        path for path, table in tables.items() if id(table.rows) in reads.whole
    }


class _Indexed(TorchDispatchMode):
    """Keeps the matrices that rows are taken out of, but for frozen tables."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.matrices: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _INDEXING and args[0].ndim == 2 and args[0].is_floating_point():
            self.matrices.append(args[0])
        return func(*args, **(kwargs or {}))


_ATEN = torch.ops.aten
_INDEXING = {
    _ATEN.embedding.default, _ATEN._embedding_bag.default, _ATEN._embedding_bag_forward_only.default,
    _ATEN.index.Tensor, _ATEN.index_select.default, _ATEN.gather.default,
}  # fmt: skip

#: What every module holds: its registries and flags.
_OF_ANY_MODULE = frozenset(vars(nn.Module()))

_NO_EMBEDDING = "no nn.Embedding holds it: nn.Embedding.from_pretrained makes a table of it"
_HIDDEN = "no part of the module: nn.ModuleList and nn.ModuleDict make one of it"


def indexed(module: nn.Module, run: Callable[[], Any]) -> dict[str, str]:
    """Name of each weight that a call takes rows out of and that is no frozen table → why it is none.

    Weights are parameters, buffers, and those of what plain lists and dicts hold.

    Args:
        module: frozen.
        run: calls it.
    """
    with _Indexed() as seen:
        run()
    places = {matrix.untyped_storage().data_ptr() for matrix in seen.matrices}  # a part of a weight has its place
    names = [name for name, tensor in _held(module) if tensor.untyped_storage().data_ptr() in places]
    known = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return {name.removesuffix(".weight"): _NO_EMBEDDING if name in known else _HIDDEN for name in names}


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of what a module and its parts hold, but for frozen tables."""
    for path, part in module.named_modules():
        if not isinstance(part, FrozenEmbedding):
            hidden = {name: value for name, value in vars(part).items() if name not in _OF_ANY_MODULE}
            yield from _within({**part._parameters, **part._buffers, **hidden}, path)


def _within(value: Any, name: str, depth: int = 4) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):  # in a list, which registers nothing
        yield from ((f"{name}.{own}" if own else name, tensor) for own, tensor in _held(value))
    elif depth and isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(part, f"{name}.{key}" if name else str(key), depth - 1)


class _Outside(TorchFunctionMode):
    """Notes the first lookup of an id that its table does not have."""

    def __init__(self, tables: Mapping[int, str]) -> None:
        super().__init__()
        self.tables = tables
        self.found = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (embedding, embedding_bag) and not self.found:
            given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            self.found = self._said(given["input"], given["weight"])
        return func(*args, **(kwargs or {}))

    def _said(self, ids: Tensor, rows: Tensor) -> str:
        outside = ids[(ids < 0) | (ids >= len(rows))]
        if not len(outside):
            return ""
        name = self.tables.get(id(rows), "a table")
        return f"{name} has {len(rows):,} rows, ids 0 to {len(rows) - 1}, and was given {int(outside[0])}"


def why_it_fails(error: Exception, module: nn.Module, run: Callable[[], Any]) -> str:
    """What a call's error says, and, where an id is outside its table, the table, its rows and the id.

    Args:
        error: of the call.
        module: that failed.
        run: the call, which is made again.
    """
    outside = _Outside({id(own): name.removesuffix(".weight") for name, own in module.named_parameters()})
    with suppress(Exception), outside:
        run()
    return f"{type(error).__name__}: {error}" + (f"; {outside.found}" if outside.found else "")
