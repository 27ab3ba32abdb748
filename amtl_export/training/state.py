"""A model in training: one epoch after another."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from amtl_export.data.encode import Encoded, Rows
from amtl_export.errors import InputError
from amtl_export.models.ctr import CtrModel
from amtl_export.models.selection import Selector
from amtl_export.training.batches import predict, shuffled
from amtl_export.training.checkpoint import Progress, load_checkpoint
from amtl_export.training.config import TrainConfig
from amtl_export.training.dims import SelectionBudget, average_dim, open_budget
from amtl_export.training.distributed import ALONE, Ranks
from amtl_export.training.measures import mass, mean_auc, measured
from amtl_export.training.observer import TrainObserver
from amtl_export.training.parts import SharedModel
from amtl_export.training.search import ControllerSearch, open_search, searched_parameters
from amtl_export.training.table_optimizers import RowDecayAdam, RowwiseAdagrad


@dataclass
class TrainState:
    """A model in training: its optimizers, its progress, its best weights so far.

    Attributes:
        best: weights of the best epoch, as the last checkpoint has them; None while the model itself has them.
        shared: the model, as its processes share its batches.
        ranks: these processes.
    """

    model: CtrModel
    config: TrainConfig
    optimizers: list[Optimizer]
    progress: Progress
    best: Mapping[str, Tensor] | None
    budget: SelectionBudget | None
    search: ControllerSearch | None
    shared: SharedModel
    ranks: Ranks

    @classmethod
    def start(cls, model: CtrModel, config: TrainConfig, ranks: Ranks = ALONE) -> TrainState:
        """Before the first epoch."""
        trained = config.warm_start is not None
        budget = (
            open_budget(config.dim_budget, model, trained=trained, ranks=ranks)
            if config.dim_budget is not None
            else None
        )
        shared = SharedModel(model, ranks)
        search = open_search(model, config, budget.penalty if budget is not None else None, shared)
        optimizers = build_optimizers(model, config)
        return cls(model, config, optimizers, Progress(0, 0, 0.0, []), None, budget, search, shared, ranks)

    @property
    def all_optimizers(self) -> list[Optimizer]:
        """Those of the weights, and of a controller."""
        return [*self.optimizers, *([self.search.optimizer] if self.search is not None else [])]

    def resume(self, checkpoint: Path) -> None:
        """Go back to the state of a checkpoint.

        Raises:
            InputError: it is damaged, of another model, or of more epochs than there are.
        """
        self.progress, self.best = load_checkpoint(checkpoint, self.model, self.all_optimizers)
        if self.progress.epoch > self.config.epochs:
            found = f"epoch: {self.progress.epoch}"
            raise InputError(
                "a checkpoint is past its training",
                where=checkpoint,
                found=found,
                allowed=f"{self.config.epochs} epochs",
            )
        if self.budget is not None:
            self.budget.weight = self.progress.budget_weight

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        stale = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.config.epochs or (self.progress.epoch > 0 and stale >= self.config.patience)

    def run_epoch(self, encoded: Encoded, observer: TrainObserver) -> dict[str, Any]:
        """Train one epoch, validate, remember the best; the epoch's history record."""
        if self.best is None and self.progress.epoch:  # no checkpoint has them
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        rows, valid = encoded.rows["train"], encoded.rows["valid"]
        epoch = self.progress.epoch + 1
        observer.epoch_started(epoch, -(-len(rows) // self.config.batch_size))
        for module in self.model.modules():
            if isinstance(module, Selector):
                module.temperature = self.config.selection.temperature_at(epoch)
        started = time.perf_counter()
        loss = self.pass_over(rows, valid, epoch, observer)
        if self.budget is not None:
            self.budget.project()
        seconds = time.perf_counter() - started
        logits = predict(self.model, valid, ranks=self.ranks)
        if not np.isfinite(logits).all():
            raise InputError("training diverged: logits are not finite", where=f"epoch {epoch}", fix="a smaller lr")
        if not all(bool(p.isfinite().all()) for name, p in self.model.named_parameters() if _selects(name)):
            found = "a selection network is not finite"  # its masks are 0 and 1 even so
            raise InputError("training diverged", where=f"epoch {epoch}", found=found, fix="a smaller selection_lr")
        judged = measured(logits, valid, "valid", encoded.schema.label_names)
        worth = mean_auc(logits, valid)
        self.progress = replace(
            self.progress,
            epoch=epoch,
            epoch_seconds=[*self.progress.epoch_seconds, seconds],
            budget_weight=self.budget.weight if self.budget is not None else 0.0,
        )
        if worth > self.progress.best_auc or not self.progress.best_epoch:
            self.progress.best_epoch, self.progress.best_auc = epoch, worth
            self.best = None
        else:
            for optimizer in self.all_optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= self.config.lr_decay
        return {
            "epoch": epoch,
            "loss_train": loss,
            **judged,
            "avg_dim": average_dim(self.model, self.ranks),
            "seconds": seconds,
            "examples_per_second": len(rows) / seconds,
        }

    def pass_over(self, rows: Rows, valid: Rows, epoch: int, observer: TrainObserver) -> float:
        """One pass of steps over the rows, a controller's steps over validation rows in between; the mean loss."""
        self.model.train()
        penalty = self.budget.penalty if self.budget is not None and self.search is None else None  # else of a search
        total = 0.0
        searching = self.search.steps(valid, epoch) if self.search is not None else itertools.repeat(None)
        for index in shuffled(len(rows), self.config.batch_size, self.config.seed, epoch):
            next(searching)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            value = self.shared.backward(rows, index, penalty)
            for optimizer in self.optimizers:
                optimizer.step()
            total += value * mass(rows, index)
            observer.step(value * self.ranks.size, len(index))  # of several processes, about that
        return float(self.ranks.sum_(torch.tensor(total, dtype=torch.float64))) / mass(rows)


def build_optimizers(model: CtrModel, config: TrainConfig) -> list[Optimizer]:
    """Adam for everything but a controller; for tables another one if asked, or if only rows of a batch are to step."""
    table: list[nn.Parameter] = []
    selection: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    apart = {id(parameter) for parameter in searched_parameters(model, config)}
    for name, parameter in model.named_parameters():
        if id(parameter) in apart:
            continue
        group = table if name.endswith(".table.weight") else selection if _selects(name) else other
        group.append(parameter)
    selection_lr = config.selection_lr or config.lr
    groups: list[dict[str, Any]] = [
        {"params": other, "weight_decay": config.weight_decay},
        {"params": selection, "lr": selection_lr, "weight_decay": config.selection_decay},
    ]
    optimizers: list[Optimizer] = []
    table_lr = config.table_lr or config.lr
    if config.table_optimizer == "rowwise-adagrad":
        optimizers.append(RowwiseAdagrad(table, table_lr, config.embedding_decay))
    elif model.config.sparse:
        optimizers.append(RowDecayAdam(table, table_lr, config.embedding_decay))
    else:
        groups.append({"params": table, "lr": table_lr, "weight_decay": config.embedding_decay})
    optimizers.insert(0, Adam([g for g in groups if g["params"]], lr=config.lr, fused=True))
    return optimizers


def _selects(name: str) -> bool:
    """Whether a parameter is of a selection network."""
    return ".selectors." in name
