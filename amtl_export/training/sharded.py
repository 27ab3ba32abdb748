"""Tables that several processes hold between them: rows are fetched from where they are, through TorchRec."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.data.vocabulary import Vocabulary
from amtl_export.extras import install_torchrec
from amtl_export.models.config import SELECTING, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.table import FieldTable, rows_of
from amtl_export.training.distributed import PATIENCE, Ranks
from amtl_export.training.held import Held, hold
from amtl_export.training.run import build_model

#: Methods that read a table by its ids alone.
SHARDED = frozenset({"fbe"}) | SELECTING


def build_shared(config: ModelConfig, vocabularies: dict[str, Vocabulary], ranks: Ranks, *, drawn: bool) -> CtrModel:
    """A model with its initial weights.

    Args:
        config: of the model.
        vocabularies: field → vocabulary.
        ranks: the processes; if they can, they hold large tables between them.
        drawn: whether the initial weights stay as they are drawn.
    """
    if ranks.alone or _why_whole(config, drawn):
        return build_model(config, vocabularies)
    with rows_of(ranks.rank, ranks.size):
        model = build_model(config, vocabularies)
    _share_rows(model, ranks)
    return model


def who_holds(config: ModelConfig, ranks: Ranks, *, drawn: bool) -> list[str]:
    """What should be said of the processes that train a model: who holds its tables, and why."""
    if ranks.alone:
        return []
    if why := _why_whole(config, drawn):
        return [f"{ranks.size} processes, each with all rows of the tables: {why}"]
    return [f"{ranks.size} processes, which hold the rows of the tables between them, through TorchRec"]


def _why_whole(config: ModelConfig, drawn: bool) -> str:
    """Why each process holds the whole of every table; empty if they share them out."""
    if not config.sparse:
        return "tables with dense gradients are small"
    if config.method not in SHARDED:
        return f"method {config.method} reads its whole table"
    if not drawn:
        return "a warm start rewrites all rows"
    return _lacks_torchrec()


@cache
def _lacks_torchrec() -> str:
    """Why TorchRec cannot be used, asked once in all processes; empty if it can be."""
    try:
        importlib.import_module("torchrec")
        lacks = ""
    except ModuleNotFoundError as error:
        lacks = f"{error.name} is not installed, with which they would hold a part each; {install_torchrec()}"
    except Exception as error:  # another torch than it is built for fails in many ways
        lacks = f"torchrec cannot be imported: {error}"
    failed = Ranks.here().sum_(torch.tensor(int(bool(lacks))))
    return lacks or ("torchrec cannot be imported in another process" if failed else "")


def _share_rows(model: CtrModel, ranks: Ranks) -> None:
    """Let the tables of a model, made inside `rows_of`, fetch what they do not hold."""
    group = dist.new_group(timeout=PATIENCE)  # apart from the one of gradients, whose order is another's
    for module in model.modules():
        if isinstance(module, FieldTable):
            hold(module.weight, Held(module.held.start, module.rows))
            module.fetch = RowExchange(module.weight, module.rows, ranks, group)


class RowExchange:
    """Rows of a table by id, each from the process that holds it, asked for once a call.

    A range of rows is a table of TorchRec, and each process has one: table-wise sharding, without pooling. Of TorchRec
    come both exchanges, of ids and of rows, and the way of the gradients back, which it divides by the number of
    processes as `DistributedDataParallel` does. The lookup in between is PyTorch's, whose gradient is sparse on a CPU:
    FBGEMM has no Adam there.

    Args:
        weight: float32 `[V_held, D]`, the rows of this process.
        count: rows of the whole table.
        ranks: the processes.
        group: theirs, for this alone.
    """

    def __init__(self, weight: nn.Parameter, count: int, ranks: Ranks, group: Any) -> None:
        from torchrec.distributed.dist_data import KJTAllToAll, SequenceEmbeddingsAllToAll

        self._weight = weight
        self._keys = [f"rows_{rank}" for rank in range(ranks.size)]
        self._edges = torch.tensor(ranks.edges(count))
        self._ask = KJTAllToAll(group, [1] * ranks.size)
        self._answer = SequenceEmbeddingsAllToAll(group, [1] * ranks.size)

    def __call__(self, ids: Tensor) -> Tensor:
        """float32 `[*ids.shape, D]` of int64 ids. All processes call it as often; one may have no ids."""
        from torchrec import KeyedJaggedTensor

        distinct, place = torch.unique(ids, return_inverse=True)
        lengths = torch.searchsorted(distinct, self._edges).diff()
        local = distinct - self._edges[:-1].repeat_interleave(lengths)
        asked = self._ask(KeyedJaggedTensor(self._keys, local, lengths=lengths)).wait().wait()
        rows = F.embedding(asked.values(), self._weight, sparse=True)
        wanted = asked.lengths()  # of each process
        answered = self._answer(rows, wanted.unsqueeze(0), lengths.tolist(), wanted.tolist()).wait()
        return F.embedding(place, answered)
