"""Which tables a model reads, seen by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amtl_export.freezing.table import FrozenEmbedding

_LOOKUP, _WHOLE = torch.ops.amtl.lookup.default, torch.ops.amtl.whole_table.default


class _Reads(TorchDispatchMode):
    """Notes where in memory the rows of every lookup are, and of tables that are read whole."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self.read: set[int] = set()
        self.whole: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_LOOKUP, _WHOLE):
            (self.read if func is _LOOKUP else self.whole).add(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


def tables_read(tables: Mapping[str, FrozenEmbedding], run: Callable[[], Any]) -> tuple[set[str], set[str]]:
    """Paths of the tables that a call looks ids up in, and of those that it reads whole.

    Args:
        tables: path → frozen table.
        run: the call.
    """
    with _Reads() as reads:
        run()
    by_address = {table.rows.data_ptr(): path for path, table in tables.items()}
    return {by_address[a] for a in reads.read if a in by_address}, {
        by_address[a] for a in reads.whole if a in by_address
    }
