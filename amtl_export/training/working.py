"""The folder that a training works in: claimed by one training, gone on with, tidied before it is published."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, check_regular, read_object, write_json
from amtl_export.training.checkpoint import drop_checkpoints, latest
from amtl_export.training.config import TrainConfig

#: What a working folder has: nothing, finished epochs, or a run that is not yet published.
NEW, BEGUN, DONE = range(3)

_SETTINGS, _RUN = "train.json", "config.json"


def partial_folder(out: Path) -> Path:
    """Where an unfinished training of `out` keeps its state."""
    return out.with_name(out.name + ".partial")


def is_done(work: Path) -> bool:
    """Whether the run is there, and is only to be tidied and published: its `config.json` is written last."""
    return (work / _RUN).is_file()


def claim(work: Path, config: TrainConfig, overwrite: bool) -> int:
    """Make the working folder, or take over one with the same settings; what it has.

    Raises:
        InputError: it is another training's, or a folder of another kind.
    """
    if work.exists():
        ours = is_done(work) or (work / _SETTINGS).is_file()
        if not ours and any(work.iterdir()):
            raise InputError("a folder is in the way", where=work, fix="choose another folder, or remove it yourself")
        if ours and not overwrite:
            _check_same(work, config.to_json())
            if (found := DONE if is_done(work) else BEGUN if latest(work) else NEW) != NEW:
                check_regular(work)
                return found
        shutil.rmtree(work)
    with atomic_folder(work) as draft:  # it is never there without its settings
        write_json(draft / _SETTINGS, config.to_json())
    return NEW


def _check_same(work: Path, wanted: dict[str, Any]) -> None:
    earlier = read_object(work / _RUN).get("train") if is_done(work) else read_object(work / _SETTINGS)
    if earlier != wanted:
        known = earlier if isinstance(earlier, dict) else {}
        pairs = ((key, known.get(key), wanted[key]) for key in wanted)
        raise InputError(
            "an unfinished training with other settings is in the way",
            where=work,
            found=", ".join(f"{key} {found!r} → {own!r}" for key, found, own in pairs if found != own),
            fix="repeat it with its settings to go on, or say overwrite=True to discard it",
        )


def tidy(work: Path) -> None:
    """Remove what a run does not keep; may be done again after an interruption."""
    drop_checkpoints(work)
    shutil.rmtree(work / "data" / "train", ignore_errors=True)
    for name in (_SETTINGS, "model.json"):
        (work / name).unlink(missing_ok=True)
