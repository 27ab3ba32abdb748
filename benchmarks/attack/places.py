"""Places that commands write to and read from: full, read-only, of long and odd names, behind links."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from attack.jobs import Job, Undisturbed, contents, left_over, more_jobs, run, undisturbed
from attack.lanes import Case
from attack.targets import Targets, Words
from attack.tell import Tally

#: Names of outputs; each is a file's name on Linux.
NAMES = (
    *("x" * 255, "x" * 240, "é" * 120, "-q", " ", "a b;c", "\x1b[2Jred", "a\nb", "\udcff", "*", "[a]", "%s{}", ".h"),
    *("~", "$HOME", "'", '"', "\u202edlrow", "x.partial", ".x.part", "x.lock"),
)

#: Of the structures that Linux's capset takes.
_CAPABILITY_VERSION = 0x20080522


def cases(targets: Targets) -> Case:
    """One job in one place each."""
    given = more_jobs(targets)
    with tempfile.TemporaryDirectory(dir=targets.run.parent) as place:
        whole = {name: undisturbed(job, Path(place) / name) for name, job in given.items()}
    return partial(_case, targets, given, whole)


def _case(
    targets: Targets,
    given: dict[str, Job],
    whole: dict[str, Undisturbed],
    number: int,
    folder: Path,
    draw: random.Random,
    tally: Tally,
) -> None:
    kinds, names = list(_KINDS), list(given)
    kind, name = kinds[number % len(kinds)], names[number // len(kinds) % len(names)]
    tally.attempts += 1
    tally.by_kind[kind] += 1
    for own in (folder, work := folder / "work"):
        own.mkdir(exist_ok=True)
        own.chmod(0o777)
    _KINDS[kind](_Place(targets, given[name], whole[name], work, draw, tally, {"kind": kind, "number": number}, name))


@dataclass(frozen=True)
class _Place:
    """One job in one place.

    Attributes:
        targets: that nothing may change.
        job: what runs.
        whole: what it writes elsewhere.
        work: its working folder.
        draw: of the place.
        tally: counts.
        about: the case, for what is told of it.
        name: of the job.
        said: what it wrote, each time.
    """

    targets: Targets
    job: Job
    whole: Undisturbed
    work: Path
    draw: random.Random
    tally: Tally
    about: dict[str, object]
    name: str
    said: list[str] = field(default_factory=list)

    def told(self, out: Path | str, before: Callable[[], object] = lambda: None) -> str:
        """Run it, and count how that ended."""
        outcome = run(self.job.of(out), self.work, before)
        self.said.append(outcome.said[-500:])
        return self.tally.note(str(self.about["kind"]), self.name, outcome, number=self.about["number"])

    def same(self, out: Path) -> None:
        """What it wrote is what it writes elsewhere."""
        found, wanted = contents(out), self.whole.wanted
        if differing := sorted(f for f in {*found, *wanted} if found.get(f) != wanted.get(f)):
            self.lost(differing=differing[:5])

    def lost(self, **more: object) -> None:
        """Tell of what must not be."""
        self.tally.blame("lost", command=self.name, **self.about, **more)


def _full(place: _Place) -> None:
    """No file may grow past some bytes, as if the disk were full: nothing half-written; with room it is done."""
    most = max(len(own) if isinstance(own, bytes) else 400 for own in place.whole.wanted.values())
    limit = place.draw.choice((0, 1, 100, place.draw.randrange(most + 1), most // 2))
    out = place.work / "out"
    ended = place.told("out", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    if ended != "done" and not place.job.resumes and out.exists() and (not place.job.inside or any(out.iterdir())):
        place.lost(left=sorted(path.relative_to(place.work).as_posix() for path in place.work.rglob("*"))[:9])
    if ended == "done" or place.told("out") == "done":
        place.same(out)
    else:
        place.lost(refused="with room again")


def _read_only(place: _Place) -> None:
    """The folder of the output may not be written to."""
    place.work.chmod(0o555)
    if place.told("out", _no_rights) == "done":
        place.lost(written="where it is forbidden")
    place.work.chmod(0o777)
    if list(place.work.iterdir()):
        place.lost(left=sorted(path.name for path in place.work.iterdir()))


def _sources_read_only(place: _Place) -> None:
    """What is read may not be written to; it need not be."""
    run, bundle = place.targets.run, place.targets.bundles["paged"]
    for source in (run, bundle):
        shutil.copytree(source, place.work.with_name(source.name))
        for file in (folder := place.work.with_name(source.name), *folder.rglob("*")):
            file.chmod(0o555 if file.is_dir() else 0o444)
    moved = {str(source): str(place.work.with_name(source.name)) for source in (run, bundle)}
    words: Words = [moved.get(str(word), word) for word in place.job.words]
    there = replace(place, job=replace(place.job, words=words))
    if there.told("out", _no_rights) != "done":
        place.lost(refused="reading alone", said=place.said[-1])


def _no_rights() -> None:
    """Give up what only root may: the modes of files hold for it, too, then."""
    if os.geteuid() == 0:
        header, none = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
        if ctypes.CDLL(None, use_errno=True).capset(header, none):
            raise OSError(ctypes.get_errno(), "capset")


def _named(place: _Place) -> None:
    """The output's name is long or odd: done, or refused whole."""
    name = place.draw.choice(NAMES)
    if name.startswith("-"):
        name = f"./{name}"
    if place.told(name) == "done":
        place.same(place.work / name)
        beside = [own for own in left_over(place.work / name) if own != "kserve.yaml"]
    else:
        beside = [path.name for path in place.work.iterdir()]
    if beside:
        place.lost(name=ascii(name), left=[ascii(own) for own in beside])


def _link_to_file(place: _Place) -> None:
    """The output is a link to a file, to nothing, or to itself: refused, and what it leads to stays."""
    kept, link = place.work / "kept", place.work / "out"
    kept.write_bytes(b"kept")
    link.symlink_to(place.draw.choice(("kept", "nowhere", "out")))
    if place.told("out") == "done" and not link.is_symlink():
        place.lost(replaced="a link")
    if kept.read_bytes() != b"kept":
        place.lost(changed="what a link leads to")


def _link_to_source(place: _Place) -> None:
    """The output is a link to what is read, or leads into it by another name: refused, and nothing in it changes."""
    source = place.draw.choice((place.targets.run, place.targets.bundles["paged"]))
    copied = place.work / "source"
    shutil.copytree(source, copied)
    was = contents(copied)
    (place.work / "link").symlink_to("source")
    words = [str(copied) if word == str(source) else word for word in place.job.of("{out}")]
    out = place.draw.choice(("link", "link/../source", "source", "./source/."))
    outcome = run([out if word == "{out}" else word for word in words], place.work)
    place.tally.note(str(place.about["kind"]), place.name, outcome, number=place.about["number"])
    found = contents(copied)
    if any(found.get(name) != own for name, own in was.items()):
        place.lost(changed="what is read", out=out)


def _behind_link(place: _Place) -> None:
    """A folder above the output is a link to another one: done there."""
    (place.work / "real").mkdir()
    (place.work / "link").symlink_to("real")
    if place.told("link/out") == "done":
        place.same(place.work / "real" / "out")
    else:
        place.lost(refused="a link above the output")


_KINDS: dict[str, Callable[[_Place], None]] = {
    "full disk": _full,
    "read-only": _read_only,
    "sources to read alone": _sources_read_only,
    "long or odd name": _named,
    "link to a file or nothing": _link_to_file,
    "link to what is read": _link_to_source,
    "behind a link": _behind_link,
}
