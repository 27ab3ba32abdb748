"""Training progress: a bar on a terminal, a plain line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from amtl_export.cli.errors import in_own_flags
from amtl_export.cli.options import Common
from amtl_export.cli.terminal import Terminal
from amtl_export.stages import heard_by
from amtl_export.training.observer import Silent, TrainObserver


@contextmanager
def watch(common: Common) -> Iterator[TrainObserver]:
    """The observer that fits where the output goes."""
    if common.quiet:  # or one of several processes, whose first speaks
        if common.working is not None:
            common.working.stage(None)
        with heard_by(lambda _: None):
            yield Silent()
    elif sys.stderr is not None and sys.stderr.isatty():
        columns = (TextColumn("{task.fields[what]}"), BarColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True), transient=True) as bar:
            shown = _Bar(bar)
            if common.working is not None:
                common.working.stage(None)  # the bar shows stages too: one line at a time
            with heard_by(shown.stage):
                yield shown
    else:
        yield _Lines(common)


def epoch_line(record: dict[str, Any]) -> str:
    """One epoch in words."""
    gauc = record.get("gauc_valid")
    grouped = "" if gauc is None else f"GAUC {gauc:.4f}, "
    return (
        f"epoch {record['epoch']:>2}: loss {record['loss_train']:.4f}, valid AUC {record['auc_valid']:.4f}, {grouped}"
        f"logloss {record['logloss_valid']:.4f}, mean dims {record['avg_dim']:.2f}, "
        f"{record['examples_per_second']:,.0f} examples/s"
    )


def rows_line(stage: str, rows: int, seconds: float) -> str:
    """How far a pass over the data is, in words."""
    return f"{stage} {rows:,} rows, {rows / max(seconds, 1e-9):,.0f} rows/s"


class _Lines(Silent):
    """A line of a pass over the data every half minute, and at its end."""

    _EVERY_S = 30.0

    def __init__(self, common: Common) -> None:
        self._common = common
        self._said_s = 0.0

    def note(self, text: str) -> None:
        self._common.note(in_own_flags(text))

    def rows_read(self, stage: str, rows: int, seconds: float, done: bool) -> None:
        self._said_s = min(self._said_s, seconds)  # of an earlier pass
        if done or seconds - self._said_s >= self._EVERY_S:
            self._common.note(rows_line(stage, rows, seconds) + ("" if done else " so far"))
            self._said_s = seconds

    def epoch_finished(self, record: dict[str, Any]) -> None:
        self._common.note(epoch_line(record))


class _Bar(Silent):
    """Loss is smoothed over about fifty steps; AUC and mean dims are of the last finished epoch."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._last = "AUC -, mean dims -"
        self._loss = 0.0
        self._examples = 0
        self._started = 0.0

    def note(self, text: str) -> None:
        self._bar.console.print(in_own_flags(text))

    def rows_read(self, stage: str, rows: int, seconds: float, done: bool) -> None:
        if done:
            self._bar.console.print(rows_line(stage, rows, seconds))
            self._reset()
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=None, what="data", state="")
        self._bar.update(self._task, state=rows_line(stage, rows, seconds))

    def stage(self, text: str) -> None:
        """What is done between passes and epochs."""
        self._reset()
        self._task = self._bar.add_task("", total=None, what=text, state="")

    def _reset(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def epoch_started(self, epoch: int, steps: int) -> None:
        self._reset()
        self._task = self._bar.add_task("", total=steps, what=f"epoch {epoch}", state="")
        self._examples, self._loss, self._started = 0, 0.0, time.perf_counter()

    def step(self, loss: float, examples: int) -> None:
        assert self._task is not None
        self._loss = 0.98 * self._loss + 0.02 * loss if self._examples else loss
        self._examples += examples
        rate = self._examples / max(time.perf_counter() - self._started, 1e-9)
        state = f"loss {self._loss:.4f}, {self._last}, {rate:,.0f} examples/s"
        self._bar.update(self._task, advance=1, state=state)

    def epoch_finished(self, record: dict[str, Any]) -> None:
        self._last = f"AUC {record['auc_valid']:.4f}, mean dims {record['avg_dim']:.2f}"
        self._bar.console.print(epoch_line(record))
