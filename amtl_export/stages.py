"""What a long call is doing, for who wants to show it: the command line does, a program need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("stages", default=None)


def stage(text: str) -> None:
    """Something begins that may take seconds: `tracing the model`. What was said before is over."""
    if (listener := _LISTENER.get()) is not None:
        listener(text)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Stages of the block's calls, in this thread, are told to `listener`."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
