"""Errors that a user can act on: what, where, the number found, the number allowed, the fix.

Each class carries the process exit code that the command line returns for it:
0 done; 1 a bug here; 2 wrong usage or bad input; 3 validation failed; 4 the environment lacks
something asked for; 5 a stated service level was missed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def printable(text: str) -> str:
    """A text for a terminal: control characters and what turns the direction of writing are shown by their numbers.

    Names and values come from files of others; they move no cursor and set no colour.
    """
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u00a0" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class AmtlError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: one sentence, what is wrong.
        where: file, field, id or row it was found at.
        found: the offending value or number.
        allowed: what would have been accepted.
        fix: what to do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        allowed: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.found = found
        self.allowed = allowed
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = {"where": self.where, "found": self.found, "allowed": self.allowed, "fix": self.fix}
        lines = [self.what] + [f"  {name}: {value}" for name, value in parts.items() if value is not None]
        return printable("\n".join(lines))


class InputError(AmtlError):
    """Wrong usage, or input that cannot be used."""

    exit_code = 2


class ValidationFailed(AmtlError):
    """A check that was asked for ran and did not hold."""

    exit_code = 3


class EnvironmentLacks(AmtlError):
    """Something asked for is not there: a library, a provider, disk space, permission."""

    exit_code = 4


_OS_ERROR = re.compile(r"\(os error (\d{1,4})\)|Os \{ code: (\d{1,4}),")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


def from_os_error(error: OSError, doing: str, path: Path | str | None = None) -> AmtlError:
    """Say what an OSError means for the user (full disk, no permission, missing file)."""
    where = path if path is not None else error.filename
    short_write = error.errno is None and "requested and" in str(error)  # numpy's tofile says no more
    if error.errno in _NO_ROOM or short_write:
        return EnvironmentLacks(
            f"no room left while {doing}",
            where=where,
            found=error.strerror or str(error),
            fix="free disk space or lift the file size limit, then run the same command again",
        )
    if error.errno in _NO_RIGHT:
        return EnvironmentLacks(
            f"not permitted while {doing}",
            where=where,
            found=error.strerror,
            fix="get the right to it, or choose another place",
        )
    in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR)
    fix = "a file stands where a folder is needed: choose another path, or move it" if in_the_way else None
    if where is None and error.errno == errno.ENOENT:  # of the current folder Python names none
        fix = "is the current folder still there? change into another one"
    return InputError(
        f"could not finish {doing}",
        where=where,
        found=error.strerror or str(error),
        fix=fix,
    )


def memory_error(error: Exception) -> EnvironmentLacks | None:
    """What an error means that is about too little memory; PyTorch's is a RuntimeError."""
    refused = "can't allocate memory" in str(error) or "out of memory" in str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and refused):
        return None
    found = str(error).partition("\n")[0] or None
    return EnvironmentLacks("not enough memory", found=found, fix="choose smaller sizes, or a machine with more memory")


@contextmanager
def os_errors(doing: str, path: Path | str | None = None) -> Iterator[None]:
    """Turn an OSError inside the block into an `AmtlError` that names the file and the fix."""
    try:
        yield
    except AmtlError:
        raise
    except Exception as error:
        if (known := os_error_within(error)) is None:
            raise
        raise from_os_error(known, doing, path) from error


def os_error_within(error: Exception) -> OSError | None:
    """The OSError that an error is, or is about: libraries written in Rust (Polars, safetensors) say its number."""
    found = _OS_ERROR.search(str(error))
    if isinstance(error, OSError) and (error.errno is not None or not found):
        return error
    return OSError(number := int(found[1] or found[2]), os.strerror(number)) if found else None
