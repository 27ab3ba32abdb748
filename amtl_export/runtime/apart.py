"""Running a graph in a process of its own: some inputs end the process in ONNX Runtime itself.

Run as a program it takes a graph and a folder of requests `<n>.npz`, and writes `<n>.answer.npz` for each, or
`<n>.error` with the runtime's words. The first request that has neither ended the process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amtl_export.errors import AmtlError
from amtl_export.runtime.session import first_line, open_session, quiet
from amtl_export.spec import Feed

_ANSWER, _ERROR = ".answer.npz", ".error"
_SECONDS = 300


def run_apart(
    model: Path, requests: Mapping[str, Feed], *, plain: Mapping[str, Feed] | None = None
) -> dict[str, Feed | str]:
    """What a graph answers to each request, on the CPU.

    Args:
        model: the .onnx file.
        requests: name → inputs, answered with all optimisations and the native operators.
        plain: name → inputs, answered with neither.

    Returns:
        Name → answers; or why there are none, in words.
    """
    optimized, requests = len(requests), {**requests, **(plain or {})}
    answers: dict[str, Feed | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        waiting = list(requests)
        for number, name in enumerate(requests):
            _write(Path(folder) / f"{number}.npz", requests[name])
        while waiting:
            first = len(requests) - len(waiting)
            ended = _run(model, Path(folder), first, len(requests), optimized)
            found = [_read(Path(folder), number) for number in range(first, len(requests))]
            done = next((i for i, answer in enumerate(found) if answer is None), len(found))
            answers |= {name: answer for name, answer in zip(waiting, found[:done], strict=False) if answer is not None}
            if done < len(waiting):
                answers[waiting[done]] = ended
                done += 1
            waiting = waiting[done:]
            for number in range(len(requests) - len(waiting)):
                (Path(folder) / f"{number}.npz").unlink(missing_ok=True)
    return answers


def _write(path: Path, feed: Feed) -> None:
    """Write arrays, and their names beside them: those need not be names of files."""
    numbered: dict[str, Any] = {str(number): values for number, values in enumerate(feed.values())}
    with path.open("wb") as file:
        np.savez(file, names=np.array(list(feed), dtype=str), **numbered)


def _arrays(path: Path) -> Feed:
    with np.load(path, allow_pickle=False) as arrays:
        return {str(name): arrays[str(number)] for number, name in enumerate(arrays["names"])}


def _run(model: Path, folder: Path, first: int, last: int, optimized: int) -> str:
    """Let a process answer requests; how it ended, in words."""
    program = [sys.executable, "-m", "amtl_export.runtime.apart", str(model), str(folder), str(first), str(last)]
    try:
        done = subprocess.run([*program, str(optimized)], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    return f"ends the process (exit code {done.returncode})"


def _read(folder: Path, number: int) -> Feed | str | None:
    answer, error = folder / f"{number}{_ANSWER}", folder / f"{number}{_ERROR}"
    if error.is_file():
        return error.read_text(encoding="utf-8")
    if not answer.is_file():
        return None
    return _arrays(answer)


def main(model: str, folder: str, first: str, last: str, optimized: str) -> None:
    """Answer requests one after the other, the first `optimized` of all with optimisations and native operators."""
    quiet()
    session, level = None, None
    for number in range(int(first), int(last)):
        feed = _arrays(Path(folder) / f"{number}.npz")
        try:
            if level != (wanted := number < int(optimized)):
                session = open_session(Path(model), optimized=wanted, native=None if wanted else False)
                level = wanted
            assert session is not None
            names = [output.name for output in session.get_outputs()]
            answers = dict(zip(names, session.run(names, feed), strict=True))
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            (Path(folder) / f"{number}{_ERROR}").write_text(_said(error), encoding="utf-8", errors="replace")
            continue
        draft = Path(folder) / f"{number}.part"
        _write(draft, answers)
        draft.rename(Path(folder) / f"{number}{_ANSWER}")


def _said(error: Exception) -> str:
    """Why there is no answer, in a line."""
    return f"{error.what}: {error.found}" if isinstance(error, AmtlError) else first_line(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
