"""A folder is written with an interruption at each step of it, one after the other: it stands or it does not."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import amtl_export.files
import amtl_export.locks
from amtl_export.files import atomic_folder, producer, write_json

#: Modules of ours whose instructions are counted.
COUNTED = {amtl_export.files.__file__, amtl_export.locks.__file__}


def write(out: Path, text: str) -> None:
    with atomic_folder(out, overwrite=True) as draft:
        write_json(draft / "config.json", {"producer": producer()})
        (draft / "text").write_text(text)


def interrupted_at(step: int, work: Callable[[], None]) -> bool:
    """Whether there was such a step: SIGINT comes before it, as from a terminal."""
    left = step

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in COUNTED:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        work()
    except KeyboardInterrupt:
        assert left <= 0
        return True
    finally:
        sys.settrace(before)
    return left <= 0


@pytest.mark.parametrize("older", [False, True])
def test_an_interruption_at_any_step(tmp_path: Path, older: bool) -> None:
    step, came = 0, True
    while came:
        step += 1
        out = tmp_path / str(step) / "out"
        if older:
            write(out, "old")
        out.parent.mkdir(exist_ok=True)
        came = interrupted_at(step, partial(write, out, "new"))
        left = [path.name for path in out.parent.iterdir()]
        texts = {path.read_text() for path in out.parent.rglob("text")}
        assert left in (["out"], []), f"step {step}"
        assert texts <= {"old", "new"}, f"step {step}"
        assert texts or not older, f"step {step}"
    assert step > 300, "the steps of the folder are followed"
