"""Sound folders to spoil, and the commands that open each."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.data.catalog import open_source
from amtl_export.freezing.folder import save_frozen
from amtl_export.freezing.frozen import freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from attack.tell import apart, command

#: Data that is trained on in a second.
DATA = "synthetic:rows=1000,values=40,rank=4,tags=6"

#: Words of a command line.
Words = list[object]

#: Of the training that is stopped.
STOPPED: Words = ["train", "--data", DATA, "--dim", "4", "--epochs", "4", "--patience", "9", "--threads", "1", "-q"]

_FIG3: Words = ["experiment", "fig3", "--data", DATA, "--dim", "4", "--epochs", "1", "--seeds", "1", "--threads", "1"]

#: The experiment that is begun, gone on with and killed.
EXPERIMENT: Words = [*_FIG3, "--budgets", "0.4", "--arms", "amtl,compress@0.4", "-q"]

#: Names that come before the others, of those that a folder of spoilt ones is called by.
PARTIAL = "run.partial"


@dataclass(frozen=True)
class Targets:
    """Sound folders.

    Attributes:
        run: finished.
        bundles: of it, by their settings.
        frozen: of it; `compressed` is one, too.
        stopped: a training after one epoch at least, as `run.partial`; None if it could not be stopped.
        experiment: finished, too; None for few targets.
        rows: a file of raw rows.
    """

    run: Path
    bundles: dict[str, Path]
    frozen: dict[str, Path]
    stopped: Path | None
    experiment: Path | None
    rows: Path


def make(folder: Path, *, few: bool = False) -> Targets:
    """Make every target, in a process of its own: this one runs nothing, so that it can be forked.

    Args:
        folder: that they are made in.
        few: one bundle, no experiment, and no training that is stopped.

    Raises:
        RuntimeError: one could not be made.
    """
    done = apart(lambda: _make(folder, few=few), 600)
    if done.code != 0:
        raise RuntimeError(done.said)
    experiment = folder / "experiment"
    if not few and (done := command([*EXPERIMENT, "--out", experiment])).code != 0:
        raise RuntimeError(done.said)
    bundles = {path.name: path for path in sorted((folder / "bundles").iterdir())}
    frozen = {path.name: path for path in sorted((folder / "frozen").iterdir())}
    stopped = None if few else _stopped(folder)
    return Targets(folder / "run", bundles, frozen, stopped, None if few else experiment, folder / "rows.parquet")


def _make(folder: Path, *, few: bool) -> None:
    config = TrainConfig(DATA, dim=4, epochs=1, hidden=(8, 4), batch_size=256)
    run = train(config, folder / "run")
    frozen = freeze(run)
    settings = {"paged": ExportConfig("paged"), "ragged": ExportConfig("ragged", first_layer="plain")}
    settings |= {"dense-int8": ExportConfig("dense", "int8"), "blocks": ExportConfig("blocks")}
    settings |= {"fused": ExportConfig("ragged", first_layer="fused")}
    for name, own in list(settings.items())[: 1 if few else None]:
        export(frozen, folder / "bundles" / name, own)
    (folder / "frozen").mkdir()
    save_frozen(frozen, folder / "frozen" / "frozen")
    if not few:
        save_frozen(compress(frozen, dim_budget=0.5), folder / "frozen" / "compressed")
    (chunk,) = open_source(DATA).chunks()
    chunk.head(50).select(pl.exclude("^__.*$")).write_parquet(folder / "rows.parquet")


def _stopped(folder: Path) -> Path | None:
    """A training, killed after its first epoch; its run would have been `stopped/run`."""
    place = folder / "stopped"
    place.mkdir()
    words = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *map(str, STOPPED), "--out", "run"]
    with subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not list(place.glob(f"{PARTIAL}/checkpoint-*/state.safetensors")):
            time.sleep(0.002)
        child.kill()
    partial = place / PARTIAL
    return partial if list(partial.glob("checkpoint-*/progress.json")) else None


def of_bundle(bundle: Path, targets: Targets, scratch: Path) -> dict[str, Words]:
    """Command → its words, of every command that opens a bundle."""
    short = ["--batch", "5", "--seconds", "0.01", "-q"]
    named: Words = ["--name", "m", "-q"]
    scored = ["score", bundle, "--data", targets.rows, "--out", scratch / "scores.parquet", "--threads", "1", "-q"]
    paged = targets.bundles["paged"]
    return {
        "inspect": ["inspect", bundle],
        "compare": ["compare", bundle, paged],
        "package": ["package", bundle, "--triton", scratch / "repository", *named],
        "package --raw-features": ["package", bundle, "--triton", scratch / "raw", "--raw-features", *named],
        "score": scored,
        "bench infer": ["bench", "infer", bundle, "--vs", targets.run, "--ids", "zipf", *short],
        "bench server": ["bench", "server", bundle, "--run", targets.run, "--qps", "20", "--workers", "1", *short],
        "validate": ["validate", bundle, "--run", targets.run, "-q"],
    }


def of_run(run: Path, targets: Targets, scratch: Path) -> dict[str, Words]:
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


def of_stopped(partial: Path, targets: Targets, scratch: Path) -> dict[str, Words]:  # noqa: ARG001 - as the others
    """The command that goes on with an unfinished training."""
    return {"train": [*STOPPED, "--out", partial.with_name("run")]}


def of_experiment(folder: Path, targets: Targets, scratch: Path) -> dict[str, Words]:  # noqa: ARG001 - as the others
    """The command that goes on with an experiment."""
    return {"experiment": [*EXPERIMENT, "--out", folder]}


def copy(source: Path, target: Path) -> Path:
    """A folder that may be spoilt; a run finds no other way to its neighbours."""
    shutil.copytree(source, target, symlinks=True)
    return target
