"""Standard output and error: they take any text, and with --json - standard output is JSON alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


def take_any_text() -> None:
    """Show what the streams' encoding lacks as a question mark, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # >&- and 2>&- make it None
            stream.reconfigure(errors="replace")


@contextmanager
def result_alone() -> Iterator[TextIO | None]:
    """Standard output for the result; what else is printed in the block goes to standard error.

    A user's module prints, and so do processes that it starts.
    """
    out: TextIO | None = sys.stdout
    ours: TextIO | None = sys.__stdout__
    if out is None or sys.stderr is None:
        yield out
    elif out is not ours:  # this process is not ours alone
        with redirect_stdout(sys.stderr):
            yield out
    else:
        out.flush()
        with os.fdopen(os.dup(out.fileno()), "w", encoding=out.encoding, errors=out.errors) as result:
            os.dup2(sys.stderr.fileno(), out.fileno())
            try:
                yield result
            finally:
                out.flush()
                os.dup2(result.fileno(), out.fileno())


@contextmanager
def while_read(stream: TextIO | None) -> Iterator[None]:
    """A reader that leaves, as `head` does, ends what the block writes, and not the command."""
    try:
        yield
    except BrokenPipeError:
        if stream is not None:  # what is still to be flushed
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
