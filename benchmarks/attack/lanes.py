"""Cases shared out among processes: each case is drawn from its number, so that any can be given again alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attack.tell import Tally

#: One case: its number, an empty folder, what draws, and where it is counted.
Case = Callable[[int, Path, random.Random, Tally], None]


@dataclass(frozen=True)
class Plan:
    """How cases of a stage are run.

    Attributes:
        stage: its name.
        count: of cases.
        seed: of all.
        lanes: processes at a time.
        minutes: after which no case begins.
        folder: in which each case has a folder.
        first: number of the first case.
    """

    stage: str
    count: int
    seed: int
    lanes: int
    minutes: float
    folder: Path
    first: int = 0


def share(plan: Plan, case: Case) -> Tally:
    """Run the cases; the counts of all lanes.

    What fails in the attack itself is counted as its fault.

    Raises:
        RuntimeError: a lane ended early.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * plan.minutes
    total = Tally()
    if plan.lanes == 1:
        return _run(plan, case, 0, ends, total)
    children = {}
    for lane in range(plan.lanes):
        if (child := os.fork()) == 0:
            _lane(plan, case, lane, ends)
        children[child] = lane
    for child, lane in children.items():
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"{plan.stage}, lane {lane}: status {status}")
        total.add(Tally.of(json.loads((plan.folder / f"lane-{lane}").read_text())))
    return total


def _lane(plan: Plan, case: Case, lane: int, ends: float) -> None:
    code = 1
    try:
        tally = _run(plan, case, lane, ends, Tally())
        (plan.folder / f"lane-{lane}").write_text(json.dumps(vars(tally)))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(plan: Plan, case: Case, lane: int, ends: float, tally: Tally) -> Tally:
    for number in range(plan.first + lane, plan.first + plan.count, plan.lanes):
        if time.monotonic() > ends:
            break
        place = plan.folder / f"{number}"
        place.mkdir(parents=True)
        try:
            case(number, place, random.Random(f"{plan.seed} {plan.stage} {number}"), tally)
        except Exception:
            tally.blame("fault", number=number, said=traceback.format_exc()[-1500:])
        shutil.rmtree(place, ignore_errors=True)
    return tally
