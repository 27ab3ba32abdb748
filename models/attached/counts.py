"""Counts of a table's ids: checked, and taken from batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amtl_export.models.attached.holders import Attached, swap_class
from amtl_export.models.attached.tables import embeddings, parameter_of


def checked_counts(counts: Any, rows: int) -> Tensor:
    """Counts as int64 `[V]` on the CPU.

    Args:
        counts: whole numbers `[V]`, of any numeric dtype.
        rows: V.

    Raises:
        ValueError: the shape is another, or a count is negative, no whole number, or no number at all.
    """
    given = torch.as_tensor(counts).detach().cpu()
    if given.shape != (rows,):
        raise ValueError(f"{tuple(given.shape)} counts for {rows} rows; give one count a row, of shape ({rows},)")
    if given.dtype == torch.bool or given.is_complex():
        raise ValueError(f"counts are {given.dtype}; give int64")
    _refuse(given.isnan(), given, "is NaN")
    _refuse(given < 0, given, "is negative")
    _refuse(given.double().frac() != 0, given, "is no whole number")
    return given.to(torch.int64)


def _refuse(wrong: Tensor, counts: Tensor, why: str) -> None:
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        raise ValueError(f"the count of row {row}, {counts[row].item()}, {why}; counts are whole numbers from 0 up")


def count_ids(model: nn.Module, batches: Iterable[Any], fields: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Count how often each row of a table is read: what `attach` takes, where nobody has counted.

    Runs the model in evaluation mode, without gradients. What counts is a read by ids: a call of the embedding,
    `F.embedding`, `F.embedding_bag`, `emb.weight[ids]` or `index_select`. Padding ids are not counted.

    Args:
        model: attached or not.
        batches: inputs of the model; a tuple or list is its arguments, a mapping its keyword arguments.
        fields: dotted names of embeddings; None counts every table of an `nn.Embedding` or `nn.EmbeddingBag`.

    Returns:
        Name → int64 `[V]` on the CPU. A table with several names has its first one, if `fields` is None.

    Raises:
        ValueError: a name is no embedding of the model, or no batch reads its table.
    """
    tables = _tables(model, fields)
    counts = {id(table): torch.zeros(len(table), dtype=torch.int64) for table in tables.values()}
    with _as_plain(model), torch.no_grad(), _Reads(counts):
        for batch in batches:
            _call(model, batch)
    for name, table in tables.items():
        if fields is not None and not bool(counts[id(table)].any()):
            raise ValueError(f"{name}: no batch reads this table by ids")
    return {name: counts[id(table)].clone() for name, table in tables.items()}


def _tables(model: nn.Module, fields: Sequence[str] | None) -> dict[str, Tensor]:
    """Name → parameter."""
    if fields is not None:
        return {name: parameter_of(name, module) for name, module in embeddings(model, fields).items()}
    tables: dict[str, Tensor] = {}
    for name, module in embeddings(model).items():
        table = module._parameters.get("weight")
        if table is not None and all(table is not known for known in tables.values()):
            tables[name] = table
    return tables


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


@contextmanager
def _as_plain(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and, for the time being, the classes from before `attach`."""
    modules = list(model.modules())
    before = [(module, type(module), module.training) for module in modules]
    try:
        model.eval()
        for module in modules:
            if isinstance(module, Attached):
                swap_class(module, module.plain_class)
        yield
    finally:
        for module, cls, training in before:
            swap_class(module, cls)
            module.training = training


class _Reads(TorchFunctionMode):
    """Counts ids wherever a table is read by them.

    Args:
        counts: id of a parameter → int64 `[V]`, added to.
    """

    def __init__(self, counts: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READS:
            table, ids, padding = _READS[func](*args, **kwargs)
            if id(table) in self._counts:
                self._add(self._counts[id(table)], ids, padding)
        return func(*args, **kwargs)

    def _add(self, counts: Tensor, ids: Any, padding: int | None) -> None:
        if isinstance(ids, tuple):
            ids = ids[0]
        if isinstance(ids, int):
            ids = torch.tensor(ids)
        if not isinstance(ids, Tensor) or ids.dtype == torch.bool:
            return  # a slice or a mask: no read by ids
        flat = (ids.values() if ids.is_nested else ids).flatten().cpu().long()
        flat = flat[flat.abs() <= len(counts)] % len(counts)
        counts += torch.bincount(flat if padding is None else flat[flat != padding], minlength=len(counts))


def _lookup(input: Any, weight: Any, padding_idx: int | None = None, *_: Any, **__: Any) -> tuple[Any, Any, Any]:
    return weight, input, padding_idx


def _bag(input: Any, weight: Any, *_: Any, padding_idx: int | None = None, **__: Any) -> tuple[Any, Any, Any]:
    return weight, input, padding_idx


def _index(weight: Any, ids: Any) -> tuple[Any, Any, Any]:
    return weight, ids, None


def _select(input: Any, dim: int, index: Any) -> tuple[Any, Any, Any]:
    return (input, index, None) if dim in (0, -2) else (None, None, None)


#: Function → what it reads: table, ids, padding id.
_READS: dict[Any, Callable[..., tuple[Any, Any, Any]]] = {
    F.embedding: _lookup,
    F.embedding_bag: _bag,
    Tensor.__getitem__: _index,
    Tensor.index_select: _select,
    torch.index_select: _select,
}
