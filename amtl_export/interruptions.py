"""Interruptions that wait: where an exception would abort the process, or leave behind what nobody knows yet."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: What asks a process to end and may be answered by an exception.
_ASKS = (signal.SIGINT, signal.SIGTERM)

#: What removes unfinished folders and locks, if the process must end without an exception.
_UNDO: list[Callable[[], object]] = []


@contextmanager
def undone_at_exit(undo: Callable[[], object]) -> Iterator[None]:
    """Have something removed by `undo_all` as long as the block is not through; behind it, that is the caller's."""
    _UNDO.append(undo)
    try:
        yield
    finally:
        _UNDO.remove(undo)


def undo_all() -> None:
    """Remove what the blocks that the process is in have begun, the last first: the process ends now."""
    while _UNDO:
        with suppress(OSError):
            _UNDO.pop()()


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM until the block is through, and hand the first one on then; a second acts at once.

    Only what a handler in Python answers is held, and only in the main thread: nothing else raises there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[tuple[int, FrameType | None]] = []
    before = {number: handler for number in _ASKS if callable(handler := signal.getsignal(number))}

    def hold(number: int, frame: FrameType | None) -> None:
        asked.append((number, frame))
        for own, handler in before.items():
            signal.signal(own, handler)

    try:
        for number in before:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked:
            first, frame = asked[0]
            before[signal.Signals(first)](first, frame)
