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
from amtl_export.files import publish, read_object, write_json
from amtl_export.training.distributed import ALONE, Ranks
from amtl_export.training.held import held_of, hold, own_rows
from amtl_export.training.table_optimizers import RowwiseAdagrad
from amtl_export.training.tensors import StoredTensors, check_tensors, load_into, load_tensors, save_tensors
from amtl_export.typed import typed

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


def drop_checkpoints(work: Path) -> None:
    """Remove all checkpoints: none is ever there in part, and the latest goes last."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda own: (len(own.name), own.name)):
        _drop(folder)
    for draft in work.glob(".checkpoint-*.part"):  # of processes that were killed
        shutil.rmtree(draft)


def _drop(folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    folder.rename(draft)
    shutil.rmtree(draft)


def latest(work: Path) -> Path | None:
    """The newest complete checkpoint of a training in progress."""
    found = {p.name.removeprefix("checkpoint-"): p for p in work.glob("checkpoint-*")}
    numbers = [number for number in found if number.isascii() and number.isdecimal() and len(number) < 10]
    return found[max(numbers, key=int)] if numbers else None


def save_checkpoint(
    work: Path,
    progress: Progress,
    model: nn.Module,
    best: Mapping[str, Tensor] | None,
    optimizers: Sequence[Optimizer],
    ranks: Ranks = ALONE,
) -> StoredTensors:
    """Write `checkpoint-<epoch>`, then drop the older one. What is stored already is linked, not written again.

    Of several processes all call it: the first one writes what all have, and each one the rows that it holds.

    Args:
        work: the working folder.
        progress: of the training.
        model: its weights are written as they are.
        best: weights of the best epoch, those that the last call gave among others; None if the model has them now.
        optimizers: their state is written.
        ranks: the processes of the training.

    Returns:
        The weights of the best epoch, as the checkpoint has them.
    """
    older, place = latest(work), work / f"checkpoint-{progress.epoch}"
    draft = work / f".checkpoint-{progress.epoch}.part"
    if ranks.first:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
    ranks.wait()
    save_tensors(model.state_dict(keep_vars=True), draft / _MODEL, ranks)
    save_tensors({"rng": torch.get_rng_state()} | _optimizer_tensors(optimizers), draft / _STATE, ranks)
    if ranks.first:
        _save_best(best, draft)
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        write_json(draft / "progress.json", asdict(progress) | {"lr": rates})
        publish(draft, place)
        if older is not None:
            _drop(older)
    ranks.wait()
    return StoredTensors(place / _BEST)


def _save_best(best: Mapping[str, Tensor] | None, draft: Path) -> None:
    if isinstance(best, StoredTensors):
        _link(best.path, draft / _BEST)
    elif best is not None:
        save_tensors(best, draft / _BEST)
    else:
        _link(draft / _MODEL, draft / _BEST)


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The state of all parameters, by the numbers of optimizer and parameter; of held rows, held as they are."""
    tensors: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            for name, value in optimizer.state[parameter].items():
                tensor = torch.as_tensor(value)
                held = held_of(parameter) if tensor.dim() else None  # of rows: all but a number of steps
                tensors[f"optimizer/{number}/{index}/{name}"] = hold(tensor, held)
    return tensors


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
    place, file = folder / "progress.json", folder / _STATE
    values = read_object(place)
    rates = values.pop("lr", None)
    progress = typed(Progress, values, place, "a checkpoint's progress cannot be read")
    if wrong := _contradiction(progress, folder):
        raise InputError("a checkpoint's progress cannot be read", where=place, found=wrong)
    _check_rates(rates, optimizers, place)
    tensors, best = load_tensors(file), StoredTensors(folder / _BEST)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")}
    check_tensors({"rng": torch.get_rng_state()}, kept, file)
    own = model.state_dict(keep_vars=True)
    check_tensors(own, own_rows(own, best), best.path)
    states = [_optimizer_state(_under(tensors, f"optimizer/{i}/"), each, file) for i, each in enumerate(optimizers)]
    if sum(len(values) for state in states for values in state.values()) != len(_under(tensors, "optimizer/")):
        raise InputError("a checkpoint holds the state of an optimizer that its training has not", where=file)
    load_into(model, own_rows(own, load_tensors(folder / _MODEL)), folder / _MODEL)
    for optimizer, restored, rate in zip(optimizers, states, rates, strict=True):
        state = optimizer.state_dict()
        state["state"] = restored
        for group, lr in zip(state["param_groups"], rate, strict=True):
            group["lr"] = lr
        optimizer.load_state_dict(state)
    try:
        torch.set_rng_state(tensors["rng"].clone())
    except RuntimeError as error:
        raise InputError("a checkpoint's random state cannot be read", where=file, found=error) from None
    return progress, best


def _contradiction(progress: Progress, folder: Path) -> str:
    """What of a progress cannot be, with its key; empty if nothing is."""
    if str(progress.epoch) != folder.name.removeprefix("checkpoint-") or progress.epoch < 1:
        return f"epoch: {progress.epoch}, in {folder.name}"
    if not 1 <= progress.best_epoch <= progress.epoch:
        return f"best_epoch: {progress.best_epoch}, after {progress.epoch} epochs"
    if not 0 <= progress.best_auc <= 1:
        return f"best_auc: {progress.best_auc}"
    if len(progress.epoch_seconds) != progress.epoch or min(progress.epoch_seconds) < 0:
        return f"epoch_seconds: {progress.epoch_seconds[:5]}, after {progress.epoch} epochs"
    return ""


def _check_rates(rates: Any, optimizers: Sequence[Optimizer], where: Path) -> None:
    """Learning rates, a list for each optimizer with one for each of its groups."""
    wanted = [len(optimizer.param_groups) for optimizer in optimizers]
    lists = isinstance(rates, list) and all(isinstance(own, list) for own in rates)
    if not lists or [len(own) for own in rates] != wanted:
        raise InputError("a checkpoint's progress cannot be read", where=where, found=f"lr: {rates!r}", allowed=wanted)
    if any(not isinstance(lr, float) or not 0 < lr < 1 for own in rates for lr in own):
        raise InputError("a checkpoint's progress cannot be read", where=where, found=f"lr: {rates!r}", allowed="0..1")


def _optimizer_state(tensors: Mapping[str, Tensor], optimizer: Optimizer, where: Path) -> dict[int, dict[str, Any]]:
    """Number of a parameter → its state; parameters that took no step yet have none.

    Raises:
        InputError: a part is missing, unknown, of another shape or type, or not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sparse = isinstance(optimizer, torch.optim.SparseAdam)
    restored: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(parameters):
        own = {name.partition("/")[2]: t for name, t in tensors.items() if name.partition("/")[0] == str(number)}
        if not own:
            continue
        wanted: dict[str, Tensor] = {"exp_avg": parameter, "exp_avg_sq": parameter}
        steps = {"step": torch.zeros((), dtype=torch.int64 if sparse else torch.float32)}
        squares = "exp_avg_sq"
        if isinstance(optimizer, RowwiseAdagrad):
            steps, squares = {}, "sum"
            wanted = {squares: hold(parameter.new_empty(len(parameter)), held_of(parameter))}
        own = own_rows(wanted, own)
        check_tensors(steps | wanted, own, where)
        if any(int(own[name]) < 1 for name in steps) or bool((own[squares] < 0).any()):
            raise InputError("a checkpoint's optimizer cannot be in this state", where=f"{where}, parameter {number}")
        # In memory: what an optimizer steps on is no part of a file.
        restored[number] = {n: int(t) if sparse and n == "step" else t.clone() for n, t in own.items()}
    return restored


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
