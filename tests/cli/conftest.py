"""The command as users run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def amtl() -> Command:
    """Run `amtl-export …`; the process, finished."""
    program = Path(sys.executable).with_name("amtl-export")

    def call(*arguments: object, cwd: Path | None = None, **kwargs: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=300,
            **kwargs,  # type: ignore[call-overload]
        )
        return done

    return call
