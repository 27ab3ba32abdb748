"""What a command is doing, on standard error: a line that goes again on a terminal, a plain line elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from amtl_export.errors import printable

#: A stage that is over sooner is not worth a line: on a terminal, and elsewhere, where the line stays.
TERMINAL_S, LINES_S = 1.0, 2.0

#: Between two states of the line on a terminal.
EVERY_S = 0.5


class Working:
    """Shows the stage that a command is at, once it has lasted a while.

    Args:
        out: standard error.
        terminal: whether it is one that can erase a line.
        after_s: seconds that a stage lasts before it is shown.
    """

    def __init__(self, out: TextIO, *, terminal: bool, after_s: float) -> None:
        self._out, self._terminal, self._after_s = out, terminal, after_s
        self._lock = threading.RLock()
        self._changed = threading.Event()
        self._text: str | None = None
        self._since = 0.0
        self._shown = self._ended = False
        self._thread: threading.Thread | None = None

    def stage(self, text: str | None) -> None:
        """A stage begins, or None does: what was is over."""
        with self._lock:
            self._erase()
            self._text, self._since, self._shown = text, time.monotonic(), False
            if self._thread is None and text is not None:
                self._thread = threading.Thread(target=self._watch, name="stages", daemon=True)
                self._thread.start()
        self._changed.set()

    def line(self, text: str) -> None:
        """A line that stays. The stage goes on, or is over: whichever, its time counts from here."""
        with self._lock:
            self._erase()
            print(text, file=self._out, flush=True)
            self._since = time.monotonic()

    def close(self) -> None:
        """Nothing is shown from here on."""
        self.stage(None)
        self._ended = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended:
            self._changed.wait(self._pause())
            self._changed.clear()
            with self._lock:
                lasted = time.monotonic() - self._since
                if self._text is not None and lasted >= self._after_s and (self._terminal or not self._shown):
                    self._show(self._text, lasted)

    def _pause(self) -> float | None:
        """Seconds until there is something to show; None while nothing will be, unless a stage begins."""
        with self._lock:
            if self._text is None or (self._shown and not self._terminal):
                return None
            return EVERY_S if self._shown else max(self._since + self._after_s - time.monotonic(), 0.01)

    def _show(self, text: str, lasted: float) -> None:
        self._shown = True
        if not self._terminal:
            print(printable(text), file=self._out, flush=True)
            return
        seconds = f", {lasted:.0f} s"
        width = max(shutil.get_terminal_size().columns - 1 - len(seconds), 10)
        said = printable(text)
        said = said if len(said) <= width else said[: width - 1] + "…"
        self._out.write(f"\r\x1b[K{said}{seconds}")
        self._out.flush()

    def _erase(self) -> None:
        if self._shown and self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._shown = False


@contextmanager
def working(quiet: bool) -> Iterator[Working | None]:
    """What shows the stages of the command in the block; None if it is to be quiet."""
    if quiet or sys.stderr is None:  # as 2>&- makes it
        yield None
        return
    from amtl_export.stages import heard_by

    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    shown = Working(sys.stderr, terminal=terminal, after_s=TERMINAL_S if terminal else LINES_S)
    try:
        with heard_by(shown.stage):
            if terminal:
                shown.stage("starting")
            yield shown
    finally:
        shown.close()
