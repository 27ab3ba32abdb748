"""A signal waits until PyTorch has traced, or a folder stands or is gone; a second one does not."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from amtl_export import freeze
from amtl_export.graph.trace import trace
from amtl_export.interruptions import interruptions_held


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruptions_held():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_acts_at_once() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruptions_held():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("between")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end")
    assert reached == ["between"]


def test_handlers_that_are_not_python_s_and_other_threads_are_left_alone() -> None:
    inside = []

    def look() -> None:
        with interruptions_held():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [signal.default_int_handler]
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with interruptions_held():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


class _Interrupted(nn.Module):
    """Is interrupted while it is traced, by whoever waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(8, 4)
        self.asked = False

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting() and not self.asked:
            self.asked = True
            os.kill(os.getpid(), signal.SIGINT)
        rows: torch.Tensor = self.rows(ids)
        return rows.sum(-1)


def test_an_interrupted_trace_ends_with_the_interruption() -> None:
    model = _Interrupted()
    frozen = freeze(model, example=(torch.from_numpy(np.arange(3)),))
    with pytest.raises(KeyboardInterrupt):
        trace(frozen)
