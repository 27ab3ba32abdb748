"""Which tables a model reads, and with which ids, seen by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
