"""What came of attacks: each runs in a process of its own, so that one that ends it is counted, and no more."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Until a command counts as one that never ends.
SECONDS = 120

#: Cases that are told of in full.
_KEPT = 100


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code; None if a signal or the clock ended it.
        signal: that ended it; 0 if none did.
        said: what it wrote.
    """

    code: int | None
    signal: int
    said: str

    @property
    def kind(self) -> str:
        """In a word."""
        if self.code is None:
            return "crash" if self.signal else "hang"
        if self.code == 1 or "Traceback (most recent" in self.said:
            return "traceback"
        if any(c not in "\n\t" and not c.isprintable() and c != "\u00a0" for c in self.said):
            return "control-characters"
        return {0: "done", 2: "refused", 3: "failed", 4: "refused", 5: "failed"}.get(self.code, "traceback")


def command(words: Sequence[object], seconds: float = SECONDS) -> Outcome:
    """Run a command in a fork of this process, which has imported everything and run nothing: pools do not survive."""
    from amtl_export.cli.main import run
    from amtl_export.runtime.session import quiet

    def work() -> int:
        quiet()  # as the program does
        return run([str(word) for word in words])

    return apart(work, seconds)


def apart(work: Callable[[], object], seconds: float = SECONDS) -> Outcome:
    """Do something in a fork; what it prints, and its exit code."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _become(write, work)
    os.close(write)
    said = bytearray()
    os.set_blocking(read, False)
    ends = time.monotonic() + seconds
    while True:
        try:
            while part := os.read(read, 1 << 16):
                said += part
        except BlockingIOError:
            pass
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            return Outcome(None, 0, said.decode(errors="replace"))
        time.sleep(0.005)
    try:
        while part := os.read(read, 1 << 16):
            said += part
    except BlockingIOError:
        pass
    os.close(read)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Outcome(None if killed else os.WEXITSTATUS(status), killed, said.decode(errors="backslashreplace"))


def _become(write: int, work: Callable[[], object]) -> None:
    """Do it, the output into a pipe; never comes back."""
    code = 1
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="surrogateescape")
        done = work()
        code = done if isinstance(done, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"Traceback (most recent call last): {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


@dataclass
class Tally:
    """Counts of one kind of attack.

    Attributes:
        attempts: how many were made.
        by_kind: how a folder was spoilt → how often.
        by_command: command → how it ended → how often.
        bad: those that must not be, in words; the first hundred.
        counts: what must not be → how often.
        found: how a bundle was spoilt → what found it → how often.
    """

    attempts: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_command: dict[str, Counter[str]] = field(default_factory=dict)
    bad: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Tally:
        """From its own attributes as JSON values."""
        commands = {name: Counter(ended) for name, ended in values["by_command"].items()}
        counters = {name: Counter(values[name]) for name in ("by_kind", "counts")}
        return cls(**(values | counters | {"by_command": commands}))

    def add(self, other: Tally) -> None:
        """The counts of another one, too."""
        self.attempts += other.attempts
        self.by_kind.update(other.by_kind)
        self.counts.update(other.counts)
        self.bad = [*self.bad, *other.bad][:_KEPT]
        for name, ended in other.by_command.items():
            self.by_command.setdefault(name, Counter()).update(ended)
        for kind, places in other.found.items():
            own = self.found.setdefault(kind, {})
            own.update({place: own.get(place, 0) + count for place, count in places.items()})

    def note(self, kind: str, name: str, outcome: Outcome, **more: Any) -> str:
        """Count an outcome; how it ended."""
        ended = outcome.kind
        self.by_command.setdefault(name, Counter())[ended] += 1
        if ended not in ("done", "refused", "failed"):
            self.blame(ended, kind=kind, command=name, said=outcome.said[-1500:], signal=outcome.signal, **more)
        return ended

    def blame(self, what: str, **about: Any) -> None:
        """Note what must not be."""
        self.counts[what] += 1
        if len(self.bad) < _KEPT:
            told = {key: _portable(own) if isinstance(own, str) else own for key, own in about.items()}
            self.bad.append({"what": what, **told})

    def to_json(self) -> dict[str, Any]:
        """JSON values: the five numbers that matter, and the rest."""
        names = ("lost", "crash", "hang", "traceback", "control-characters", "wrong-pass", "fault")
        return {
            "attempts": self.attempts,
            **{name.replace("-", "_"): self.counts[name] for name in names},
            "kinds": dict(sorted(self.by_kind.items())),
            "commands": _sorted(self.by_command),
            **({"found_by": found} if (found := _sorted(self.found)) else {}),
            "bad": self.bad,
        }


def _portable(text: str) -> str:
    """Without the places of this machine."""
    for place in (sysconfig.get_paths()["purelib"], str(Path.cwd())):
        text = text.replace(f"{place}/", "")
    return text


def _sorted(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(own.items())) for name, own in sorted(counts.items())}
