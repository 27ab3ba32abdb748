"""A step of several processes: each takes its part of every batch, and all end with the gradient of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from amtl_export.data.encode import Rows
from amtl_export.models.ctr import CtrModel
from amtl_export.training.batches import Batch, device_of
from amtl_export.training.distributed import Ranks
from amtl_export.training.held import held_of
from amtl_export.training.measures import batch_loss, mass


class PartDropout(nn.Dropout):
    """Dropout of a part of a batch that drops what one process would: it draws for the whole, and takes its part.

    Attributes:
        count: rows of the whole batch.
    """

    def __init__(self, p: float, ranks: Ranks) -> None:
        super().__init__(p)
        self.count = 0
        self._ranks = ranks

    def forward(self, input: Tensor) -> Tensor:
        """float32 `[b, …]`, b rows of the part, to the same shape."""
        if not self.training or not self.p:
            return input
        scale = F.dropout(input.new_ones(self.count, *input.shape[1:]), self.p)
        return input * scale[self._ranks.part(self.count)]


class SharedModel:
    """A model in training by several processes, or by one.

    The loss of a batch is a mean, weighted or not. A process's is that of its part times the part's share of the
    whole's mass, so that the processes' losses and gradients add up to those of the whole. `DistributedDataParallel`
    averages gradients, hence the factor `size`. Tables with sparse gradients are no `nn.Embedding`, which is all that
    it knows; their gradients are summed here. A table that the processes hold between them gets whole gradients.

    Args:
        model: the same in all processes.
        ranks: the processes.
    """

    def __init__(self, model: CtrModel, ranks: Ranks) -> None:
        self._ranks = ranks
        self._module: nn.Module = model
        self._sparse: list[nn.Parameter] = []
        self._dropouts: list[PartDropout] = []
        if not ranks.alone:
            self._share(model)

    def _share(self, model: CtrModel) -> None:
        self._dropouts = list(_part_dropouts(model, self._ranks))
        sparse = {n: p for n, p in model.named_parameters() if model.config.sparse and n.endswith(".table.weight")}
        self._sparse = [parameter for parameter in sparse.values() if held_of(parameter) is None]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(sparse))
        self._module = DistributedDataParallel(model, forward_sync_buffers=False)

    def backward(self, rows: Rows, index: npt.NDArray[np.int64], penalty: Callable[[], Tensor] | None = None) -> float:
        """Leave the gradient of a batch in the parameters.

        Args:
            rows: all that are trained on.
            index: of the whole batch's rows.
            penalty: gives what joins the loss, after the forward pass; the same in all processes.

        Returns:
            What this process adds to the batch's loss, without the penalty.
        """
        part = index[self._ranks.part(len(index))]
        batch = Batch.of(rows.take(part), device_of(self._module))
        for dropout in self._dropouts:
            dropout.count = len(index)
        loss = batch_loss(self._module(batch.ids, batch.numeric, batch.multi), batch)
        own = loss if self._ranks.alone else loss * (mass(rows, part) / (mass(rows, index) or 1.0))
        whole = own if self._ranks.alone else own * self._ranks.size
        (whole if penalty is None else whole + penalty()).backward()
        for parameter in self._sparse:
            assert parameter.grad is not None
            parameter.grad = self._ranks.sum_(parameter.grad.coalesce()).div_(self._ranks.size)
        return float(own.detach())


def _part_dropouts(model: nn.Module, ranks: Ranks) -> Iterator[PartDropout]:
    """Put a `PartDropout` where a model has a dropout."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                made = PartDropout(child.p, ranks)
                setattr(parent, name, made)
                yield made
