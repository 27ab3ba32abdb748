"""Learning a controller from the validation split while the weights learn from the training split."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch.optim import Adam

from amtl_export.data.encode import Rows
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import Searched
from amtl_export.training.batches import Batch, device_of, shuffled
from amtl_export.training.config import TrainConfig


class ControllerSearch:
    """First-order DARTS (Liu et al., ICLR 2019): before every step of the weights, one of the controller.

    The controller's gradient is that of the loss on a validation batch, the weights taken as they are. The
    same split then chooses the best epoch, so only the test split is untouched, as in AutoEmb's own paper.

    Args:
        model: whose method is `Searched`.
        method: the model's method.
        config: learning rate, batch size, seed.
    """

    def __init__(self, model: CtrModel, method: Searched, config: TrainConfig) -> None:
        self._model = model
        self._config = config
        lr = config.selection_lr or config.lr
        self.optimizer = Adam(method.controller_parameters(), lr=lr, weight_decay=config.selection_decay, fused=True)

    def steps(self, rows: Rows, epoch: int) -> Iterator[None]:
        """Each `next` is one step on a validation batch; batches come round as often as needed."""
        lap = 0
        while True:
            for index in shuffled(len(rows), self._config.batch_size, self._config.seed, epoch << 20 | lap):
                batch = Batch.of(rows.take(index), device_of(self._model))
                self._model.zero_grad(set_to_none=True)
                logit = self._model(batch.ids, batch.numeric, batch.multi)
                F.binary_cross_entropy_with_logits(logit, batch.label).backward()
                self.optimizer.step()
                yield
            lap += 1


def open_search(model: CtrModel, config: TrainConfig) -> ControllerSearch | None:
    """The search that the model's method asks for, or None."""
    return ControllerSearch(model, model.embedding, config) if isinstance(model.embedding, Searched) else None
