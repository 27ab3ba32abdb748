"""Output folders that one process at a time works on."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from amtl_export.errors import InputError
from amtl_export.interruptions import interruptions_held, undone_at_exit


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from working on an output folder. The lock ends with the process, however that ends.

    A hidden file beside the folder is what is locked; behind the block it is removed, and folders that were made for it
    and stayed empty are. A thread may lock a folder again that it has locked.

    Raises:
        InputError: another process, or another thread of this one, is working on the folder.
        OSError: the file cannot be made, or the file system knows no locks.
    """
    path = path.absolute()
    file = path.with_name(f".{path.name}.lock")
    if file in (held := _held()):
        yield
        return
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            with interruptions_held():
                held[file] = _lock(file, path)
            with undone_at_exit(partial(_free, file, new)):
                yield
        finally:
            _free(file, new)
    finally:
        _free(file, new)  # nothing is left to do, unless an interruption came as the first one began


_OF_THREAD = threading.local()


def _held() -> dict[Path, int]:
    """Descriptors of the files that this thread has locked."""
    if not hasattr(_OF_THREAD, "held"):
        _OF_THREAD.held = {}
    held: dict[Path, int] = _OF_THREAD.held
    return held


def _free(file: Path, new: list[Path]) -> None:
    with interruptions_held():
        if (descriptor := _held().pop(file, None)) is not None:
            file.unlink(missing_ok=True)
            os.close(descriptor)
        for parent in new:
            with suppress(OSError):  # something is in it
                parent.rmdir()


def _lock(file: Path, path: Path) -> int:
    """Descriptor of the locked file, which says who holds it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, descriptor):
                try:
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                except OSError:  # a full disk
                    file.unlink(missing_ok=True)
                    raise
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "a process that has just begun"
            os.close(descriptor)
            raise InputError(
                "another process is working on the output folder",
                where=path,
                found=holder,
                fix="wait for it, or choose another folder",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one that held it has removed the file meanwhile


def _is(file: Path, descriptor: int) -> bool:
    """Whether a descriptor is still of the file that has this name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
