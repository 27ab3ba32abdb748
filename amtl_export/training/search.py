"""Learning how dims are chosen from the validation split while the weights learn from the training split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Adam

from amtl_export.data.encode import Rows
from amtl_export.models.ctr import CtrModel
from amtl_export.models.protocol import Searched
from amtl_export.training.batches import shuffled
from amtl_export.training.config import TrainConfig
from amtl_export.training.parts import SharedModel


class ControllerSearch:
    """First-order DARTS (Liu et al., ICLR 2019): before every step of the weights, one of the controller.

    The controller's gradient is that of the loss on a validation batch, the weights taken as they are. The
    same split then chooses the best epoch, so only the test split is untouched, as in AutoEmb's own paper.

    Args:
        model: in training.
        parameters: what validation batches train: AutoEmb's controller, or selection networks.
        config: learning rate, batch size, seed.
        penalty: joins the loss of these steps, if given.
        shared: the model, as its processes share its batches.
    """

    def __init__(
        self,
        model: CtrModel,
        parameters: Sequence[nn.Parameter],
        config: TrainConfig,
        penalty: Callable[[], Tensor] | None,
        shared: SharedModel,
    ) -> None:
        self._model = model
        self._shared = shared
        self._config = config
        self._penalty = penalty
        lr = config.selection_lr or config.lr
        self.optimizer = Adam(parameters, lr=lr, weight_decay=config.selection_decay, fused=True)

    def steps(self, rows: Rows, epoch: int) -> Iterator[None]:
        """Each `next` is one step on a validation batch; batches come round as often as needed."""
        lap = 0
        while True:
            for index in shuffled(len(rows), self._config.batch_size, self._config.seed, epoch << 20 | lap):
                self._model.zero_grad(set_to_none=True)
                self._shared.backward(rows, index, self._penalty)
                self.optimizer.step()
                yield
            lap += 1


def searched_parameters(model: CtrModel, config: TrainConfig) -> list[nn.Parameter]:
    """What validation batches train; empty where training batches train all."""
    if isinstance(model.chooser, Searched):
        return list(model.chooser.controller_parameters())
    if config.select_on == "valid":
        return [parameter for name, parameter in model.chooser.named_parameters() if name.startswith("selectors.")]
    return []


def open_search(
    model: CtrModel, config: TrainConfig, penalty: Callable[[], Tensor] | None, shared: SharedModel
) -> ControllerSearch | None:
    """The search that the method or the settings ask for, or None.

    Args:
        model: in training.
        config: of the run.
        penalty: of a dim budget, which goes with the selection's steps.
        shared: the model, as its processes share its batches.
    """
    parameters = searched_parameters(model, config)
    return ControllerSearch(model, parameters, config, penalty, shared) if parameters else None
