"""Processes that are killed at random moments; what is left is whole or nothing, and the same command goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amtl_export.files import checksum_mismatches
from attack.targets import DATA, STOPPED, Targets
from attack.tell import Outcome, Tally

#: How a process is ended.
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """A command that writes a folder.

    Attributes:
        words: of it, run in a folder of its own.
        out: what it writes, in there.
        volatile: files whose bytes may be others after a resumption: times are in them.
    """

    words: Sequence[object]
    out: str
    volatile: tuple[str, ...] = ()


def jobs(targets: Targets) -> dict[str, Job]:
    """Name → command."""
    bundle, run = targets.bundles["paged"], targets.run
    timed = ("metrics.json", "history.jsonl")
    arms = ["experiment", "fig3", "--data", DATA, "--dim", "8", "--epochs", "1", "--seeds", "1", "--out", "out", "-q"]
    return {
        "train": Job([*STOPPED, "--out", "out"], "out", timed),
        "export": Job(["export", run, "--out", "out", "--layout", "paged", "-q"], "out"),
        "compress": Job(["compress", run, "--out", "out", "--dim-budget", "0.5", "-q"], "out"),
        "package": Job(["package", bundle, "--triton", "out", "--name", "m", "--mounted-at", "/models", "-q"], "out/m"),
        "experiment": Job(arms, "out"),
    }


def kill(
    name: str, job: Job, folder: Path, draw: random.Random, seconds: float, wanted: dict[str, bytes], tally: Tally
) -> None:
    """Kill one process, look at what is left, and give the command again.

    Args:
        name: of the job.
        job: what runs.
        folder: empty.
        draw: the moment and the signal.
        seconds: that the command takes when nobody ends it.
        wanted: file → bytes, of an undisturbed one.
        tally: counts.
    """
    number, moment = draw.choice(SIGNALS), draw.uniform(0.0, 1.05) * seconds
    kind = f"{name}, {number.name}"
    tally.attempts += 1
    tally.by_kind[kind] += 1
    with subprocess.Popen(_program(job), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        time.sleep(moment)
        child.send_signal(number)
        said = child.stderr.read().decode(errors="replace")
        code = child.wait()
    ended = Outcome(None if code < 0 else code, 0 if code in (-number, 0) else max(0, -code), said)
    if code not in (0, 130, -number):
        tally.note(kind, name, ended)
    elif "Traceback (most recent" in said:
        tally.blame("traceback", kind=kind, said=said[-1500:])
    _look(kind, name, job, folder, tally)
    done = subprocess.run(_program(job), cwd=folder, capture_output=True, text=True, check=False)
    if (folder / job.out).exists() and "exists" in done.stderr:
        done.returncode = 0  # it was done before the signal came
    if done.returncode != 0:
        tally.blame("lost", kind=kind, moment=moment, said=done.stderr[-1500:])
        return
    found = contents(folder / job.out, job.volatile)
    if differing := sorted(f for f in {*found, *wanted} if found.get(f) != wanted.get(f)):
        tally.blame("lost", kind=kind, moment=moment, differing=differing[:5])
    left = sorted(path.name for path in (folder / job.out).parent.iterdir() if path.name != Path(job.out).name)
    if left := [one for one in left if not (name == "package" and one == "kserve.yaml")]:
        tally.blame("lost", kind=kind, moment=moment, left=left[:5])
    tally.by_command.setdefault(name, Counter())["same bytes"] += 1


def _program(job: Job) -> list[str]:
    main = "from amtl_export.cli.main import main; main()"
    return [sys.executable, "-c", main, *map(str, job.words)]


def _look(kind: str, name: str, job: Job, folder: Path, tally: Tally) -> None:
    """Nothing half-written is visible."""
    out = folder / job.out
    if not out.is_dir():
        return
    if (name == "export" and checksum_mismatches(out)) or (name == "train" and not (out / "config.json").is_file()):
        tally.blame("lost", kind=kind, half_written=name)
    if name == "compress" and not (out / "frozen.safetensors").is_file():
        tally.blame("lost", kind=kind, half_written=name)
    if name == "package" and not (out / "1" / "model.onnx").is_file():
        tally.blame("lost", kind=kind, half_written=name)


def contents(folder: Path, volatile: tuple[str, ...]) -> dict[str, bytes]:
    """File → bytes, of all whose bytes follow from what was asked."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in volatile)
    return {path.relative_to(folder).as_posix(): _timeless(path) for path in files}


def _timeless(file: Path) -> bytes:
    data = file.read_bytes()
    return b"" if file.suffix in (".json", ".md", ".html", ".png", ".jsonl") and b"second" in data else data


def attack(targets: Targets, folder: Path, count: int, draw: random.Random, over: Callable[[], bool]) -> Tally:
    """Kill processes until there are enough, or time is over."""
    tally, undisturbed = Tally(), {}
    for name, job in jobs(targets).items():
        place = folder / f"whole-{name}"
        place.mkdir(parents=True)
        started = time.monotonic()
        done = subprocess.run(_program(job), cwd=place, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr}")
        undisturbed[name] = (time.monotonic() - started, contents(place / job.out, job.volatile))
    names = list(undisturbed)
    for number in range(count):
        if over():
            break
        name = names[number % len(names)]
        place = folder / f"{number}"
        place.mkdir()
        seconds, wanted = undisturbed[name]
        kill(name, jobs(targets)[name], place, draw, seconds, wanted, tally)
        shutil.rmtree(place, ignore_errors=True)
    return tally


#: So that children of an attack share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
