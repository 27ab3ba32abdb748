"""Commands that write folders, and what their folders must hold whoever disturbed them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from attack.targets import EXPERIMENT, STOPPED, Targets, Words
from attack.tell import Outcome, apart

#: Stands for the output in a job's words.
OUT = "{out}"

#: Keys of JSON files that say when or where a folder was made.
_OF_PLACE = ("date", "relative")


@dataclass(frozen=True)
class Job:
    """A command that writes a folder or a file.

    Attributes:
        words: of it, `OUT` among them.
        inside: what of its output appears whole; the output itself if empty.
        resumes: whether it goes on in an output that is there, and keeps what it has done beside it or in it.
    """

    words: Words
    inside: str = ""
    resumes: bool = False

    def of(self, out: Path | str) -> list[str]:
        """Its words for an output."""
        return [str(out) if word == OUT else str(word) for word in self.words]


def jobs(targets: Targets) -> dict[str, Job]:
    """Name → command."""
    bundle, run = targets.bundles["paged"], targets.run
    named: Words = ["--name", "m", "--mounted-at", "/models", "-q"]
    return {
        "train": Job([*STOPPED, "--out", OUT], resumes=True),
        "export": Job(["export", run, "--out", OUT, "--layout", "paged", "-q"]),
        "compress": Job(["compress", run, "--out", OUT, "--dim-budget", "0.5", "-q"]),
        "package": Job(["package", bundle, "--triton", OUT, *named], "m"),
        "experiment": Job([*EXPERIMENT, "--out", OUT], resumes=True),
    }


def more_jobs(targets: Targets) -> dict[str, Job]:
    """Those, and the rest of what writes."""
    bundle = targets.bundles["paged"]
    return jobs(targets) | {
        "freeze": Job(["freeze", targets.run, "--out", OUT, "-q"]),
        "score": Job(["score", bundle, "--data", targets.rows, "--out", OUT, "--threads", "1", "-q"], resumes=True),
        "report": Job(["report", bundle, "--vs", targets.run, "--out", OUT, "-q"]),
    }


def become(words: list[str], folder: Path, scratch: Path) -> NoReturn:
    """Be the command, as a process of its own is, in a fork: signals, working folder, temporary files."""
    import sys

    from amtl_export.cli.main import main

    os.chdir(folder)
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["amtl-export", *words]
    main()


def run(words: list[str], folder: Path, before: Callable[[], object] = lambda: None) -> Outcome:
    """Run a command in a folder, `before` ahead of it in its process."""

    def work() -> int:
        before()
        try:
            become(words, folder, folder.with_name(f"{folder.name}-tmp"))
        except SystemExit as ended:
            return int(ended.code or 0)

    return apart(work)


def contents(out: Path) -> dict[str, Any]:
    """File → what is in it, without times and without the folder's own place."""
    if out.is_file():
        return {"": out.read_bytes()}
    return {file.relative_to(out).as_posix(): _timeless(file, out) for file in out.rglob("*") if file.is_file()}


def _timeless(file: Path, out: Path) -> Any:
    data = file.read_bytes().replace(os.fsencode(out.parent.resolve()), b".")
    if file.suffix == ".json":
        return _without_times(json.loads(data))
    return [_without_times(json.loads(line)) for line in data.splitlines()] if file.suffix == ".jsonl" else data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: own for key, own in value.items() if "second" not in key and key not in _OF_PLACE}
        return {key: _without_times(own) for key, own in kept.items()}
    return [_without_times(own) for own in value] if isinstance(value, list) else value


def half_written(out: Path) -> list[str]:
    """Files under an output that are not whole: empty, or JSON that ends early."""
    bad = []
    for file in sorted(out.rglob("*")):
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(out).parts):
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            elif not file.stat().st_size and file.suffix != ".log":
                bad.append(file.name)
        except ValueError:
            bad.append(file.name)
    return bad


@dataclass(frozen=True)
class Undisturbed:
    """A job that nobody disturbed.

    Attributes:
        seconds: that it took.
        wanted: its output's contents.
    """

    seconds: float
    wanted: dict[str, Any]


def undisturbed(job: Job, folder: Path) -> Undisturbed:
    """Run a job and keep what it wrote.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir(parents=True)
    started = time.monotonic()
    done = run(job.of("out"), folder)
    if done.code != 0:
        raise RuntimeError(f"{job.words[0]}: {done}")
    return Undisturbed(time.monotonic() - started, contents(folder / "out"))


def left_over(out: Path, allowed: tuple[str, ...] = ("kserve.yaml",)) -> list[str]:
    """What stands beside an output that was not there before."""
    return sorted(path.name for path in out.parent.iterdir() if path.name != out.name and path.name not in allowed)
