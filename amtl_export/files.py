"""Folders written whole or not at all, and the checksums that prove it later."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from amtl_export import __version__
from amtl_export.errors import InputError, os_errors
from amtl_export.interruptions import interruptions_held, undone_at_exit
from amtl_export.locks import locked

TOOL = "amtl-export"
SUMS = "SHA256SUMS"


def producer() -> dict[str, str]:
    """The mark that this tool leaves in each folder it makes."""
    return {"tool": TOOL, "version": __version__}


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, refusing NaN and infinity (they are not JSON)."""
    path.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file, strictly: no NaN and no infinity, no key twice, no text that is none.

    Raises:
        InputError: the file is missing, truncated or not JSON.
        EnvironmentLacks: it may not be read.
    """
    if not path.is_file():
        raise InputError("a file is missing", where=path, fix=f"is {path.parent} a folder that {TOOL} wrote, complete?")
    with os_errors("reading", path):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_each_once)
        if "\\ud" in text.lower():  # half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(
            "a file does not hold JSON",
            where=path,
            found=error,
            fix="restore the file or make the folder anew",
        ) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: the file is missing, truncated, not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("a file holds no JSON object", where=path, found=type(value).__name__, fix="restore the file")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values


def check_regular(folder: Path) -> None:
    """Refuse a folder that holds a pipe, a device, or a link to nowhere: reading one may never end.

    Raises:
        InputError: it does.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_file() and not path.is_dir():
            raise InputError("neither a file nor a folder", where=path, fix="restore the file, or remove this")


def is_ours(folder: Path) -> bool:
    """Whether this tool made `folder` (a run, a frozen model or a bundle)."""
    return bool(_marked(folder))


def _marked(folder: Path) -> dict[str, Any]:
    """What the file says that marks a folder as ours; nothing if it is not."""
    for name in ("config.json", "signature.json"):
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(mark := values.get("producer"), dict):
            return values if mark.get("tool") == TOOL else {}
    return {}


def real(path: Path | str) -> Path:
    """Where a path leads, links followed; `Path.resolve` fails on a link that leads to itself, some versions of it."""
    return Path(os.path.realpath(path))


def refuse_bytes(path: Path | str) -> None:
    """Refuse a path whose name is no text: libraries that are not written in Python cannot open it.

    Raises:
        InputError: it is not UTF-8.
    """
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        raise InputError(
            "the name of a file or folder is not UTF-8", where=path, found=os.fsencode(path), fix="rename it"
        )


def check_source(source: str, out: Path, overwrite: bool) -> None:
    """Refuse to write a folder where the one lies that is read, before any work is done.

    Raises:
        InputError: the two are one, or lie in each other; or `check_target`'s reasons.
    """
    refuse_overlap(source, out)
    check_target(out, overwrite)


def refuse_overlap(source: Path | str, out: Path) -> None:
    """Refuse an output folder that holds the folder that is read, or lies in it.

    Raises:
        InputError: it does.
    """
    place, target = real(source), real(out)
    if Path(source).is_dir() and (place.is_relative_to(target) or target.is_relative_to(place)):
        raise InputError("the output folder holds what is read, or lies in it", where=out, fix="choose another folder")


def refuse_inside(path: Path) -> None:
    """Refuse an output path that lies in a folder that this tool made: its checksums would not hold any more.

    The folder of experiments, in which runs of others may lie, has none.

    Raises:
        InputError: it lies in one, its links followed or not.
    """
    for folder in {*real(path).parents, real(path.parent), *real(path.parent).parents}:
        if (marked := _marked(folder)) and marked.get("kind") != "experiments":
            raise InputError(
                "the output lies in a folder that this tool made",
                where=path,
                found=folder,
                fix="choose a path outside of it",
            )


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse an output path that exists, unless it is ours and `overwrite` was said.

    Raises:
        InputError: the path exists and must not be replaced.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    if not overwrite:
        raise InputError("the output folder exists", where=path, fix="choose another folder, or say overwrite=True")
    if not path.is_dir() or not is_ours(path):
        raise InputError(
            f"the output path exists and was not made by {TOOL}, so it is not replaced",
            where=path,
            fix="choose another folder, or remove it yourself",
        )


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden sibling folder that becomes `path` only if the block succeeds.

    On any error, interruption included, the sibling is removed and `path` is as it was. What a process that was killed
    left of earlier ones is removed too.

    Raises:
        InputError: `path` exists and may not be replaced, appeared meanwhile, or another process is working on it then.
        EnvironmentLacks: no disk space or no permission.
    """
    check_target(path, overwrite)
    with os_errors("writing the output folder", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_drafts(path)
        draft = None
        try:
            with interruptions_held():
                draft = Path(tempfile.mkdtemp(prefix=_of_process(path, os.getpid()), suffix=".part", dir=path.parent))
            with undone_at_exit(partial(shutil.rmtree, draft, ignore_errors=True)):
                yield draft
            with locked(path):
                publish(draft, path, overwrite=overwrite)
        except BaseException:
            if draft is not None:
                with interruptions_held():
                    shutil.rmtree(draft, ignore_errors=True)
            raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling file that becomes `path`, which may be there, only if the block succeeds.

    What a process that was killed leaves of it is written over by the next one. A link stays one; what is no file, a
    pipe or `/dev/null`, is yielded itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = real(path)
    draft = path.with_name(f".part-{path.name}")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _of_process(path: Path, process: int | str) -> str:
    """How the names of a process's drafts begin; the machine's name is in it, since folders may be shared."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".{path.name}.{machine}-{process}."


def _remove_left_drafts(path: Path) -> None:
    """Remove drafts of processes of this machine that are no more."""
    for left in path.parent.glob(f"{glob.escape(_of_process(path, ''))[:-1]}*.part"):
        process = left.name.removeprefix(_of_process(path, "")[:-1]).partition(".")[0]
        if process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def publish(draft: Path, path: Path, *, overwrite: bool = False) -> None:
    """Move a finished folder to its place; an older one of ours goes only when the new one stands.

    Raises:
        InputError: something that may not be replaced has appeared there.
    """
    for file in draft.rglob("*"):
        if file.is_file():
            sync(file)
    permit(draft)
    check_target(path, overwrite)
    with interruptions_held():
        if not path.exists() or not any(path.iterdir()):
            _rename(draft, path)
            return
        old = draft.with_name(draft.name + ".old")
        path.rename(old)
        try:
            _rename(draft, path)
        except BaseException:
            old.rename(path)
            raise
        if old.is_symlink():  # the link goes, what it names stays
            old.unlink()
        else:
            shutil.rmtree(old, ignore_errors=True)


def permit(folder: Path) -> None:
    """Give a folder the permissions that a new one has here; temporary ones are for their owner alone.

    A new one is made and looked at: the umask can be asked for only by setting it, which other threads would notice.
    """
    fresh = folder / ".new"
    fresh.mkdir()
    mode = fresh.stat().st_mode & 0o777
    fresh.rmdir()
    folder.chmod(mode)


def _rename(draft: Path, path: Path) -> None:
    """To a place where nothing is, or an empty folder: the file system refuses any other."""
    try:
        draft.rename(path)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise InputError(
                "the output folder appeared while it was made", where=path, fix="choose another folder"
            ) from None
        raise


def sync(file: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder's files, whose errors stay `OSError`s that say what went wrong (`shutil.copytree` lists them)."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        copied = target / path.relative_to(source)
        if path.is_dir():
            copied.mkdir()
        else:
            shutil.copyfile(path, copied)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file in the folder, in the form that `sha256sum -c` reads."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def checksum_mismatches(folder: Path) -> list[str]:
    """Names of files that are missing or differ from SHA256SUMS, or are not listed there (empty when all hold).

    Raises:
        InputError: there is no such folder, it has no SHA256SUMS, a line of it cannot be read, or names a file
            elsewhere.
    """
    path = folder / SUMS
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, fix="give a folder that export wrote")
    if not path.is_file():
        raise InputError("a file is missing", where=path, fix=f"is {folder} a bundle that {TOOL} wrote, complete?")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError("checksums cannot be read", where=path, found=error, fix="export it again") from None
    mismatches, listed = [], {SUMS}
    links = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_symlink()}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise InputError("a checksum line cannot be read", where=f"{path}, line {number}", found=repr(line[:200]))
        if not _lies_in(name) or any(name == link or name.startswith(f"{link}/") for link in links):
            raise InputError("a checksum is of a file elsewhere", where=f"{path}, line {number}", found=repr(name))
        if name in listed or not (folder / name).is_file() or sha256(folder / name) != digest:
            mismatches.append(name)
        listed.add(name)
    others = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    return mismatches + sorted(f"{name} (not listed)" for name in others if name not in listed)


def _lies_in(name: str) -> bool:
    """Whether a relative path goes down alone."""
    return "\0" not in name and not name.startswith("/") and not {"", ".", ".."}.intersection(name.split("/"))
