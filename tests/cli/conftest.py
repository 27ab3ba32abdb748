"""The command as users run it, in a process of its own, and in this one, which has begun already."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.cli import main

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


@pytest.fixture
def amtl_here(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `amtl-export …` in this process: a new one takes seconds to load PyTorch."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = main.run(words)
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call
