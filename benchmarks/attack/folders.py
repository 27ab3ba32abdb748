"""Spoilt folders through every command that opens them."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import polars as pl
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from amtl_export.compare import TOLERANCE, compare
from amtl_export.errors import ValidationFailed
from amtl_export.files import SUMS
from attack.lanes import Case
from attack.spoil import BUNDLES, RUNS, TAMPERED, Spoil, seal, spoil
from attack.spoil.values import FREE
from attack.targets import PARTIAL, Targets, Words, copy, of_bundle, of_experiment, of_run, of_stopped
from attack.tell import Outcome, Tally, apart, command

#: Answers that a bundle has for its samples; their names are the graph's.
_OUTPUT = re.compile(r"test_data_set_0/output_\d+\.pb")

#: Where a check that refused a bundle is told by its first words.
_WORDS = 7

Commands = Callable[[Path, Targets, Path], dict[str, Words]]


def bundles(targets: Targets) -> Case:
    """Bundles spoilt in any way."""
    return partial(_attack, targets.bundles, BUNDLES, of_bundle, targets)


def runs(targets: Targets) -> Case:
    """Runs and frozen folders."""
    return partial(_attack, {"run": targets.run, **targets.frozen}, RUNS, of_run, targets)


def stopped(targets: Targets) -> Case:
    """Unfinished trainings."""
    assert targets.stopped is not None
    return partial(_attack, {PARTIAL: targets.stopped}, RUNS, of_stopped, targets)


def experiments(targets: Targets) -> Case:
    """Folders of experiments, which are gone on with."""
    assert targets.experiment is not None
    return partial(_attack, {"experiment": targets.experiment}, RUNS, of_experiment, targets)


def _attack(
    sources: Mapping[str, Path],
    kinds: dict[str, Spoil],
    commands: Commands,
    targets: Targets,
    number: int,
    folder: Path,
    draw: random.Random,
    tally: Tally,
) -> None:
    name = draw.choice(sorted(sources))
    one = copy(sources[name], folder / (name if name == PARTIAL else "spoilt"))
    kind = _spoilt(partial(spoil, one, kinds, random.Random(draw.random())))
    tally.attempts += 1
    tally.by_kind.update(kind.split("+"))
    for what, words in commands(one, targets, folder).items():
        ended = tally.note(kind, what, command(words), source=name, number=number)
        if what == "validate" and ended == "done" and (differing := _passed(one, sources[name], targets, folder)):
            tally.blame("wrong-pass", kind=kind, source=name, number=number, differing=differing)


def _passed(one: Path, source: Path, targets: Targets, folder: Path) -> list[str]:
    """What `validate` should not have passed: what is not free in a bundle; a run that another bundle comes from."""
    if (one / "model.onnx").is_file():
        return differences(one, source)
    files = ("model.onnx.data", "schema.json")
    wanted, made = targets.bundles["paged"], folder / "bundle"
    return [name for name in files if made.is_dir() and (made / name).read_bytes() != (wanted / name).read_bytes()]


def differences(one: Path, other: Path) -> list[str]:
    """Files of two bundles that differ in more than keys that are free, and roundings of sample answers."""
    names = {file.relative_to(own).as_posix() for own in (one, other) for file in own.rglob("*") if file.is_file()}
    differing = (name for name in names - {SUMS} if _contents(one / name) != _contents(other / name))
    return sorted(name for name in differing if not (_OUTPUT.fullmatch(name) and _near(one / name, other / name)))


def _near(one: Path, other: Path) -> bool:
    """Whether two tensors of answers differ by what machines may."""
    try:
        found, wanted = (numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in (one, other))
        (difference,) = compare({"": wanted}, {"": found})
    except (OSError, ValueError, TypeError, ValidationFailed, DecodeError):
        return False
    return found.dtype == wanted.dtype and difference.relative <= TOLERANCE


def _contents(file: Path) -> Any:
    if not file.is_file() or file.is_symlink():
        return None
    data = file.read_bytes()
    if file.suffix == ".parquet":
        return apart(lambda: print(_frame(data))).said  # Polars' threads would not survive the next fork
    try:
        return _without_free(json.loads(data)) if file.suffix == ".json" else data
    except ValueError:
        return data


def _frame(data: bytes) -> str:
    """A Parquet file's columns and values: it may be laid out otherwise."""
    try:
        frame = pl.read_parquet(io.BytesIO(data))
        return f"{frame.schema} {frame.rows()}"
    except Exception:
        return "not Parquet"


def _without_free(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_free(own) for key, own in value.items() if key not in FREE}
    return [_without_free(own) for own in value] if isinstance(value, list) else value


def _tamper(folder: Path, kind: str, draw: random.Random) -> str:
    """Spoil a bundle in one way; empty where there was nothing to spoil."""
    if not TAMPERED[kind](folder, draw):
        return ""
    if kind != "sums":
        seal(folder)
    return kind


def _spoilt(work: Callable[[], str]) -> str:
    """Spoil something in a fork: Polars' threads would not survive the next one."""
    done = apart(lambda: print(work(), end="", flush=True))
    if done.code != 0:
        raise RuntimeError(done.said)
    return done.said


def tampered(targets: Targets) -> Case:
    """Bundles that `validate` must not pass, of one kind after the other."""
    return partial(_tampered, targets)


def _tampered(targets: Targets, number: int, folder: Path, draw: random.Random, tally: Tally) -> None:
    kinds = sorted(TAMPERED)
    kind, name = kinds[number % len(kinds)], draw.choice(sorted(targets.bundles))
    one = copy(targets.bundles[name], folder / "spoilt")
    if not _spoilt(partial(_tamper, one, kind, random.Random(draw.random()))):
        return
    tally.attempts += 1
    tally.by_kind[kind] += 1
    verdict = folder / "verdict.json"
    outcome = command(["validate", one, "--run", targets.run, "-q", "--json", verdict])
    if tally.note(kind, "validate", outcome, source=name, number=number) == "done":
        tally.blame("wrong-pass", kind=kind, source=name, number=number)
        shutil.copytree(one, folder.parents[1] / "passed" / f"{number}-{kind}", symlinks=True)
    else:
        tally.found.setdefault(kind, {}).setdefault(_place(verdict, outcome), 0)
        tally.found[kind][_place(verdict, outcome)] += 1


def _place(verdict: Path, outcome: Outcome) -> str:
    """What found it: the first words of the first problem, without names and numbers of this one."""
    try:
        said = json.loads(verdict.read_text())["problems"][0]
    except (OSError, ValueError, LookupError, TypeError):
        lines = [line for line in outcome.said.splitlines() if line.strip()]
        said = lines[0] if lines else ""
    return " ".join(word for word in str(said).split()[:_WORDS] if not any(c.isdigit() or c == "/" for c in word))
