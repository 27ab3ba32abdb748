"""Who is told how training goes."""

from __future__ import annotations

from typing import Any, Protocol


class TrainObserver(Protocol):
    """Is told how training goes. All methods may do nothing."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def rows_read(self, stage: str, rows: int, seconds: float, done: bool) -> None:
        """So many rows of the data are counted or encoded (`stage`) since so many seconds; at the end all."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """An epoch (from 1) of so many steps begins."""

    def step(self, loss: float, examples: int) -> None:
        """A step over so many examples is done."""

    def epoch_finished(self, record: dict[str, Any]) -> None:
        """The epoch's line of `history.jsonl`."""


class Silent:
    """A `TrainObserver` that says nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def rows_read(self, stage: str, rows: int, seconds: float, done: bool) -> None:
        """Nothing."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Nothing."""

    def step(self, loss: float, examples: int) -> None:
        """Nothing."""

    def epoch_finished(self, record: dict[str, Any]) -> None:
        """Nothing."""
