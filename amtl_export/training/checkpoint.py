"""The state after an epoch, written whole, so that an interruption loses at most the epoch under way."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amtl_export.errors import InputError
from amtl_export.files import publish, read_json, write_json
from amtl_export.training.tensors import load_into, load_tensors, save_tensors


@dataclass
class Progress:
    """How far training is.

    Attributes:
        epoch: finished epochs.
        best_epoch: the epoch (from 1) with the best validation AUC so far.
        best_auc: that AUC.
        epoch_seconds: training time of each finished epoch.
        budget_weight: of the dim budget's penalty.
    """

    epoch: int
    best_epoch: int
    best_auc: float
    epoch_seconds: list[float]
    budget_weight: float = 0.0


def latest(work: Path) -> Path | None:
    """The newest complete checkpoint of a training in progress."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    return checkpoints[-1] if checkpoints else None


def save_checkpoint(
    work: Path, progress: Progress, model: nn.Module, best: dict[str, Tensor], optimizers: Sequence[Optimizer]
) -> None:
    """Write `checkpoint-<epoch>`, then drop the older one."""
    older = latest(work)
    draft = work / f".checkpoint-{progress.epoch}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors["rng"] = torch.get_rng_state()
    scalars: list[Any] = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for index, values in state["state"].items():
            for name, value in values.items():
                tensors[f"optimizer/{number}/{index}/{name}"] = torch.as_tensor(value)
        scalars.append([group["lr"] for group in state["param_groups"]])
    save_tensors(tensors, draft / "state.safetensors")
    write_json(draft / "progress.json", asdict(progress) | {"lr": scalars})
    place = work / f"checkpoint-{progress.epoch}"
    shutil.rmtree(place, ignore_errors=True)  # of an epoch that is run again
    publish(draft, place)
    if older is not None:
        shutil.rmtree(older)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore model, optimizers and random state; return the progress and the best weights.

    Raises:
        InputError: the checkpoint is truncated, corrupted or of another model.
    """
    values = read_json(folder / "progress.json")
    rates = values.pop("lr")
    file = folder / "state.safetensors"
    tensors = load_tensors(file)
    load_into(model, _under(tensors, "model/"), file)
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        restored: dict[int, dict[str, Any]] = {}
        for key, tensor in _under(tensors, f"optimizer/{number}/").items():
            index, name = key.split("/")
            sparse_step = name == "step" and isinstance(optimizer, torch.optim.SparseAdam)
            restored.setdefault(int(index), {})[name] = int(tensor) if sparse_step else tensor
        state["state"] = restored
        for group, rate in zip(state["param_groups"], rates[number], strict=True):
            group["lr"] = rate
        optimizer.load_state_dict(state)
    if "rng" not in tensors:
        raise InputError("a checkpoint lacks its random state", where=file, fix="train anew with overwrite=True")
    torch.set_rng_state(tensors["rng"])
    return Progress(**values), _under(tensors, "best/")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
