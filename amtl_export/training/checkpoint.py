"""The state after an epoch, written whole, so that an interruption loses at most the epoch under way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amtl_export.errors import InputError
from amtl_export.files import publish, read_json, write_json
from amtl_export.training.tensors import StoredTensors, load_into, load_tensors, save_tensors

_MODEL, _BEST, _STATE = "model.safetensors", "best.safetensors", "state.safetensors"


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
    work: Path,
    progress: Progress,
    model: nn.Module,
    best: Mapping[str, Tensor] | None,
    optimizers: Sequence[Optimizer],
) -> StoredTensors:
    """Write `checkpoint-<epoch>`, then drop the older one. What is stored already is linked, not written again.

    Args:
        work: the working folder.
        progress: of the training.
        model: its weights are written as they are.
        best: weights of the best epoch, those that the last call gave among others; None if the model has them now.
        optimizers: their state is written.

    Returns:
        The weights of the best epoch, as the checkpoint has them.
    """
    older = latest(work)
    draft = work / f".checkpoint-{progress.epoch}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_tensors(model.state_dict(), draft / _MODEL)
    if isinstance(best, StoredTensors):
        _link(best.path, draft / _BEST)
    elif best is not None:
        save_tensors(best, draft / _BEST)
    else:
        _link(draft / _MODEL, draft / _BEST)
    tensors = {"rng": torch.get_rng_state()}
    rates: list[Any] = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for index, values in state["state"].items():
            for name, value in values.items():
                tensors[f"optimizer/{number}/{index}/{name}"] = torch.as_tensor(value)
        rates.append([group["lr"] for group in state["param_groups"]])
    save_tensors(tensors, draft / _STATE)
    write_json(draft / "progress.json", asdict(progress) | {"lr": rates})
    place = work / f"checkpoint-{progress.epoch}"
    shutil.rmtree(place, ignore_errors=True)  # of an epoch that is run again
    publish(draft, place)
    if older is not None:
        shutil.rmtree(older)
    return StoredTensors(place / _BEST)


def _link(file: Path, link: Path) -> None:
    """A second name of a file; a copy where the file system knows no links."""
    try:
        link.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, link)


def load_checkpoint(folder: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[Progress, StoredTensors]:
    """Restore model, optimizers and random state; return the progress and the best weights.

    Raises:
        InputError: the checkpoint is truncated, corrupted or of another model.
    """
    values = read_json(folder / "progress.json")
    rates = values.pop("lr")
    load_into(model, load_tensors(folder / _MODEL), folder / _MODEL)
    file = folder / _STATE
    tensors = load_tensors(file)
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        restored: dict[int, dict[str, Any]] = {}
        for key, tensor in _under(tensors, f"optimizer/{number}/").items():
            index, name = key.split("/")
            sparse_step = name == "step" and isinstance(optimizer, torch.optim.SparseAdam)
            # In memory: what an optimizer steps on is no part of a file.
            restored.setdefault(int(index), {})[name] = int(tensor) if sparse_step else tensor.clone()
        state["state"] = restored
        for group, rate in zip(state["param_groups"], rates[number], strict=True):
            group["lr"] = rate
        optimizer.load_state_dict(state)
    if "rng" not in tensors:
        raise InputError("a checkpoint lacks its random state", where=file, fix="train anew with overwrite=True")
    torch.set_rng_state(tensors["rng"].clone())
    return Progress(**values), StoredTensors(folder / _BEST)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
