"""Large arrays that need not stay in memory."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import EnvironmentLacks

#: Bytes from which an array is a file.
_LARGE = 1 << 28


def scratch(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """An array of zeros; a large one is a mapped file that has no name, in the folder that TMPDIR names.

    Raises:
        EnvironmentLacks: the folder has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            _reserve(file.fileno(), size)
            array: npt.NDArray[Any] = np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
            return array
    except OSError as error:
        raise EnvironmentLacks(
            "no room for a large array",
            where=tempfile.tempdir or os.environ.get("TMPDIR"),
            found=error.strerror,
            allowed=f"{size:,} bytes",
            fix="set TMPDIR to a folder with more room",
        ) from None


def _reserve(file: int, size: int) -> None:
    """Take the room now: a full disk ends a process that writes a mapped page."""
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # macOS
        os.truncate(file, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.truncate(file, size)
