"""Sound folders to spoil, and the commands that open each."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.freezing.folder import save_frozen
from amtl_export.freezing.frozen import freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from attack.tell import apart

#: Data that is trained on in a second.
DATA = "synthetic:rows=2000,values=60,rank=4,tags=8"

#: Of the training that is stopped.
STOPPED = ["train", "--data", DATA, "--dim", "8", "--epochs", "4", "--patience", "9", "--threads", "1", "-q"]


@dataclass(frozen=True)
class Targets:
    """Sound folders.

    Attributes:
        run: finished.
        bundles: of it, by their settings.
        frozen: of it; `compressed` is one, too.
        stopped: a training after one epoch at least, as `run.partial`; None if it could not be stopped.
    """

    run: Path
    bundles: dict[str, Path]
    frozen: dict[str, Path]
    stopped: Path | None


def make(folder: Path, *, few: bool = False) -> Targets:
    """Make every target, in a process of its own: this one runs nothing, so that it can be forked.

    Args:
        folder: that they are made in.
        few: one bundle, and no training that is stopped.
    """
    done = apart(lambda: _make(folder, few=few), 600)
    if done.code != 0:
        raise RuntimeError(done.said)
    bundles = {path.name: path for path in sorted((folder / "bundles").iterdir())}
    frozen = {path.name: path for path in sorted((folder / "frozen").iterdir())}
    return Targets(folder / "run", bundles, frozen, None if few else _stopped(folder))


def _make(folder: Path, *, few: bool) -> None:
    config = TrainConfig(DATA, dim=8, epochs=1, hidden=(16, 8), batch_size=256)
    run = train(config, folder / "run")
    frozen = freeze(run)
    settings = {"paged": ExportConfig("paged"), "ragged": ExportConfig("ragged", first_layer="plain")}
    settings |= {"dense-int8": ExportConfig("dense", "int8"), "blocks": ExportConfig("blocks")}
    for name, own in list(settings.items())[: 1 if few else None]:
        export(frozen, folder / "bundles" / name, own)
    (folder / "frozen").mkdir()
    save_frozen(frozen, folder / "frozen" / "frozen")
    if not few:
        save_frozen(compress(frozen, dim_budget=0.5), folder / "frozen" / "compressed")


def _stopped(folder: Path) -> Path | None:
    """A training, killed after its first epoch; its run would have been `stopped/run`."""
    place = folder / "stopped"
    place.mkdir()
    words = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *STOPPED, "--out", "run"]
    with subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not list(place.glob("run.partial/checkpoint-*/state.safetensors")):
            time.sleep(0.002)
        child.kill()
    partial = place / "run.partial"
    return partial if list(partial.glob("checkpoint-*/progress.json")) else None


def of_bundle(bundle: Path, targets: Targets, scratch: Path) -> dict[str, list[object]]:
    """Command → its words, of every command that opens a bundle."""
    short = ["--batch", "5", "--ids", "zipf", "--seconds", "0.01", "-q"]
    return {
        "inspect": ["inspect", bundle],
        "package": ["package", bundle, "--triton", scratch / "repository", "--name", "m", "-q"],
        "package --raw-features": [
            "package",
            bundle,
            "--triton",
            scratch / "raw",
            "--name",
            "m",
            "--raw-features",
            "-q",
        ],
        "bench infer": ["bench", "infer", bundle, "--vs", targets.run, *short],
        "validate": ["validate", bundle, "--run", targets.run, "-q"],
    }


def of_run(run: Path, targets: Targets, scratch: Path) -> dict[str, list[object]]:
    """Command → its words, of every command that opens a run or a frozen folder."""
    bundle = targets.bundles["paged"]
    return {
        "inspect": ["inspect", run],
        "freeze": ["freeze", run, "--out", scratch / "frozen", "-q"],
        "export": ["export", run, "--out", scratch / "bundle", "--layout", "paged", "-q"],
        "validate": ["validate", bundle, "--run", run, "-q"],
        "compress": ["compress", run, "--out", scratch / "compressed", "--dim-budget", "0.5", "-q"],
        "train --warm-start": [*STOPPED, "--epochs", "1", "--warm-start", run, "--out", scratch / "warm"],
    }


def of_stopped(partial: Path, targets: Targets, scratch: Path) -> dict[str, list[object]]:  # noqa: ARG001 - as the others
    """The command that goes on with an unfinished training."""
    return {"train": [*STOPPED, "--out", partial.with_name("run")]}


def copy(source: Path, target: Path) -> Path:
    """A folder that may be spoilt; a run finds no other way to its neighbours."""
    shutil.copytree(source, target, symlinks=True)
    return target
