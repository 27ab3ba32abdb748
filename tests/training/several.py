"""Trainings one after the other in one group of processes: what test_distributed.py starts with torchrun.

several.py FOLDER [NAME]: trains FOLDER/NAME for each NAME of FOLDER/cases.json. In the one that is given, the first
process dies in the second epoch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from amtl_export.training.config import TrainConfig
from amtl_export.training.distributed import joined
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent


class Dies(Silent):
    """Ends its process without a word, as a machine does that is switched off."""

    def __init__(self) -> None:
        self.steps = -1

    def epoch_started(self, epoch: int, steps: int) -> None:
        self.steps = 2 if epoch == 2 else -1

    def step(self, loss: float, examples: int) -> None:
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, dies: str | None = None) -> None:
    torch.set_num_threads(1)
    with joined():
        for name, settings in json.loads((folder / "cases.json").read_text()).items():
            config = TrainConfig.from_json(settings, name)
            train(config, folder / name, observer=Dies() if name == dies else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
