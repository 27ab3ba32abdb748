"""Processes that are killed at random moments; what is left is whole or nothing, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from amtl_export.files import checksum_mismatches
from attack.jobs import Job, Undisturbed, become, contents, half_written, jobs, left_over, run, undisturbed
from attack.lanes import Case
from attack.targets import Targets
from attack.tell import Outcome, Tally

#: How a process is ended.
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)

#: Every so many kills are of a new interpreter, so that its start is among the moments; the others are of a fork.
_INTERPRETER = 10

#: Of an interpreter's start.
_IMPORTS_S = 3.0


def cases(targets: Targets) -> Case:
    """One kill each, of one job after the other."""
    given = jobs(targets)
    with tempfile.TemporaryDirectory(dir=targets.run.parent) as place:
        whole = {name: undisturbed(job, Path(place) / name) for name, job in given.items()}
    return partial(_case, given, whole)


def _case(
    given: dict[str, Job],
    whole: dict[str, Undisturbed],
    number: int,
    folder: Path,
    draw: random.Random,
    tally: Tally,
) -> None:
    """Kill one process, look at what is left, and give the command again."""
    name = list(given)[number % len(given)]
    job, wanted = given[name], whole[name]
    ends, interpreter = draw.choice(SIGNALS), number // len(given) % _INTERPRETER == 0
    moment = draw.uniform(0.0, 1.05) * (wanted.seconds + _IMPORTS_S * interpreter)
    kind = f"{name}, {ends.name}"
    about = {"kind": kind, "moment": round(moment, 3), "number": number}
    tally.attempts += 1
    tally.by_kind[kind] += 1
    work = folder / "work"
    work.mkdir()
    ended = _killed(job, work, ends, moment, interpreter=interpreter)
    counted = "done" if ended.code == 0 else "ended by the signal" if ended.signal == ends else f"exit {ended.code}"
    if ended.code not in (0, 130) and ended.signal != ends:
        counted = tally.note(kind, name, ended, number=number)
    elif "Traceback (most recent" in ended.said:
        tally.blame("traceback", said=ended.said[-1500:], **about)
    tally.by_command.setdefault(name, type(tally.counts)())[counted] += 1
    out = work / "out"
    if wrong := _visible(name, out / job.inside if job.inside else out):
        tally.blame("lost", half_written=wrong, **about)
    if name == "experiment" or not (out / job.inside).exists():  # else it was through when the signal came
        again = run(job.of("out"), work)
        if again.code != 0:
            tally.blame("lost", said=again.said[-1500:], **about)
            return
    found = contents(out)
    if differing := sorted(f for f in {*found, *wanted.wanted} if found.get(f) != wanted.wanted.get(f)):
        tally.blame("lost", differing=differing[:5], **about)
    if left := left_over(out):
        tally.blame("lost", left=left[:5], **about)
    tally.by_command[name]["same bytes"] += not differing


def _killed(job: Job, work: Path, ends: signal.Signals, moment: float, *, interpreter: bool) -> Outcome:
    said = work.with_name("said")
    with said.open("wb") as file:
        if interpreter:
            program = [sys.executable, "-c", "from amtl_export.cli.main import main; main()", *job.of("out")]
            child = subprocess.Popen(program, cwd=work, stdout=file, stderr=file).pid
        elif (child := os.fork()) == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = 1
            try:
                become(job.of("out"), work, work.with_name("tmp"))
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                os._exit(code)
        time.sleep(moment)
        os.kill(child, ends)  # it is a child of ours until it is waited for
        _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    return Outcome(None if number < 0 else number, max(0, -number), said.read_text(errors="replace"))


def _visible(name: str, out: Path) -> list[str]:
    """What is half-written where a command is through or has not begun."""
    if not out.is_dir():
        return []
    if name == "export" and (wrong := checksum_mismatches(out)):
        return wrong
    whole = {"train": "config.json", "compress": "frozen.safetensors", "package": "1/model.onnx"}.get(name)
    return half_written(out) + ([whole] if whole and not (out / whole).exists() else [])
