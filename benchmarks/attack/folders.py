"""Spoilt folders through every command that opens them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from attack.spoil import BUNDLES, RUNS, TAMPERED, Spoil, seal, spoil
from attack.targets import Targets, copy, of_bundle, of_run, of_stopped
from attack.tell import Tally, apart, command

Over = Callable[[], bool]


def bundles(targets: Targets, folder: Path, count: int, draw: random.Random, over: Over) -> Tally:
    """Bundles spoilt in any way."""
    return _attack(targets.bundles, BUNDLES, of_bundle, targets, folder, count, draw, over)


def runs(targets: Targets, folder: Path, count: int, draw: random.Random, over: Over) -> Tally:
    """Runs and frozen folders."""
    return _attack({"run": targets.run, **targets.frozen}, RUNS, of_run, targets, folder, count, draw, over)


def stopped(targets: Targets, folder: Path, count: int, draw: random.Random, over: Over) -> Tally:
    """Unfinished trainings."""
    if targets.stopped is None:
        return Tally()
    return _attack({"run.partial": targets.stopped}, RUNS, of_stopped, targets, folder, count, draw, over)


def _attack(
    sources: Mapping[str, Path],
    kinds: dict[str, Spoil],
    commands: Callable[[Path, Targets, Path], dict[str, list[object]]],
    targets: Targets,
    folder: Path,
    count: int,
    draw: random.Random,
    over: Over,
) -> Tally:
    tally = Tally()
    for number in range(count):
        if over():
            break
        place = folder / f"{number}"
        place.mkdir(parents=True)
        name = draw.choice(sorted(sources))
        one = copy(sources[name], place / ("run.partial" if name == "run.partial" else "spoilt"))
        kind = _spoilt(partial(spoil, one, kinds, random.Random(draw.random())))
        tally.attempts += 1
        tally.by_kind.update(kind.split("+"))
        for what, words in commands(one, targets, place).items():
            tally.note(kind, what, command(words), source=name, number=number)
        shutil.rmtree(place, ignore_errors=True)
    return tally


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


def tampered(targets: Targets, folder: Path, count: int, draw: random.Random, over: Over) -> Tally:
    """Bundles that `validate` must not pass, of one kind after the other."""
    tally, kinds = Tally(), sorted(TAMPERED)
    for number in range(count):
        if over():
            break
        kind, name = kinds[number % len(kinds)], draw.choice(sorted(targets.bundles))
        place = folder / f"{number}"
        place.mkdir(parents=True)
        one = copy(targets.bundles[name], place / "spoilt")
        if _spoilt(partial(_tamper, one, kind, random.Random(draw.random()))):
            tally.attempts += 1
            tally.by_kind[kind] += 1
            words: list[object] = ["validate", one, "--run", targets.run, "-q"]
            ended = tally.note(kind, "validate", command(words), source=name, number=number)
            if ended == "done":
                tally.blame("wrong-pass", kind=kind, source=name, number=number)
                kept = folder.with_name("passed") / f"{number}-{kind}"
                shutil.copytree(one, kept, symlinks=True)
        shutil.rmtree(place, ignore_errors=True)
    return tally
