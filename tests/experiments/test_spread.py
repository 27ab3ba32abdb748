"""Arms side by side: the same results as one after the other, and a clean end."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.experiments.arm import run_folder
from amtl_export.experiments.plan import PLANS, Plan, make_plan, only
from amtl_export.experiments.run import run_experiment
from amtl_export.experiments.spread import Spread
from amtl_export.experiments.sweep import sweep
from amtl_export.training.config import TrainConfig

Make = Callable[..., TrainConfig]
DATA = "synthetic:rows=2000,values=40,tags=6"
LONG = "synthetic:rows=40000,values=40,tags=6"


@pytest.fixture
def plan(tiny_train: Make) -> Plan:
    """Three arms: one that is trained, one made from it, one that starts from it."""
    found = only(make_plan("pareto", tiny_train(data=DATA, epochs=1), (0.3,)), ["fbe warm", "compress@0.3"])
    assert [arm.warm_from for arm in found.arms] == [None, "fbe", "fbe"]
    return found


def weights(out: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in (out / "runs").glob("*/model.safetensors")}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_can_be_given_to_a_process(name: str, tiny_train: Make) -> None:
    plan = make_plan(name, tiny_train(data="synthetic:rows=400"), (0.2,))
    again = pickle.loads(pickle.dumps(plan))
    assert [(arm.name, arm.config) for arm in again.arms] == [(arm.name, arm.config) for arm in plan.arms]


def test_processes_find_what_one_does(plan: Plan, tmp_path: Path) -> None:
    expected = sweep(plan, [0], tmp_path / "one")
    notes: list[str] = []
    found = sweep(plan, [0], tmp_path / "two", Spread(jobs=2, threads=2), note=notes.append)
    assert found == expected
    assert weights(tmp_path / "two") == weights(tmp_path / "one")
    order = [note for note in notes if note.endswith("begun") or ": test AUC" in note]
    (done,) = (i for i, note in enumerate(order) if " fbe, seed 0: test AUC" in note)
    for arm in ("fbe warm", "compress@0.3"):
        assert order.index(f"{arm}, seed 0: begun") > done
    assert sum(": epoch 1, valid AUC" in note for note in notes) == 2


#: What a process that starts a cluster does; from then on, Ray in it wants tokens of every cluster.
ON_RAY = """
import pickle, sys
from pathlib import Path
from amtl_export.errors import AmtlError
from amtl_export.experiments.spread import Spread
from amtl_export.experiments.sweep import sweep
if __name__ == "__main__":
    found = []
    for plan, seed, spread in pickle.loads(Path("work").read_bytes()):
        try:
            found.append(sweep(plan, [seed], Path("two"), Spread(**spread)))
        except AmtlError as error:
            found.append(error)
    Path("found").write_bytes(pickle.dumps(found))
"""


def test_ray_finds_what_one_process_does(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: the extra ray")
    expected = sweep(plan, [0], tmp_path / "one")
    asked: list[tuple[Plan, int, dict[str, Any]]] = [
        (plan, 0, {"ray": "local"}),
        (spoilt(plan, "fbe"), 1, {"ray": "local"}),
        (plan, 1, {"ray": "local", "threads": 1000}),
    ]
    (tmp_path / "work").write_bytes(pickle.dumps(asked))
    home = {"HOME": str(tmp_path)}  # Ray writes a token there
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY], cwd=tmp_path, env=os.environ | home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, bad, many = pickle.loads((tmp_path / "found").read_bytes())
    assert found == expected
    assert weights(tmp_path / "two") == weights(tmp_path / "one")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"config.json", "runs"}
    assert isinstance(bad, InputError)
    assert bad.what.startswith("arm fbe, seed 1: ")
    assert isinstance(many, InputError)
    assert "has the cores of one arm" in many.what


def spoilt(plan: Plan, name: str) -> Plan:
    """The plan, an arm of which has data that is not there."""
    arms = (replace(arm, config=replace(arm.config, data="nowhere")) if arm.name == name else arm for arm in plan.arms)
    return replace(plan, arms=tuple(arms))


def test_an_error_says_which_arm_and_ends_the_others(tiny_train: Make, tmp_path: Path) -> None:
    """One is finished, one under way for ever when the third cannot begin."""
    names = ["fbe", "mde@0.3", "amtl@0.3"]
    plan = only(make_plan("pareto", tiny_train(data=DATA, epochs=1), (0.3,)), names)
    slow = [replace(arm, config=replace(arm.config, data=LONG, epochs=1000)) for arm in plan.arms if "mde" in arm.name]
    plan = spoilt(replace(plan, arms=(plan.arms[0], *slow, plan.arms[1])), "amtl@0.3")
    assert [arm.name for arm in plan.arms] == names
    with pytest.raises(InputError, match=r"arm amtl@0\.3, seed 0: ") as raised:
        sweep(plan, [0], tmp_path / "x", Spread(jobs=2))
    assert "nowhere" in str(raised.value)
    assert training(tmp_path) == []
    left = {path.name for path in (tmp_path / "x" / "runs").iterdir()}
    assert "fbe-s0" in left
    assert left <= {"fbe-s0", "mde@0.3-s0.partial"}  # where an epoch was done, that is kept


def training(folder: Path) -> list[psutil.Process]:
    """Processes that have a lock in the folder."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and any(str(folder) in file.path for file in opened(process))
    ]


def opened(process: psutil.Process) -> list[Any]:
    try:
        return list(process.open_files())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def words(out: Path, *more: str) -> list[str]:
    """A command that trains for minutes."""
    experiment = ["experiment", "pareto", "--data", LONG, "--dim", "8", "--seeds", "1", "--epochs", "1000"]
    return [sys.executable, "-m", "amtl_export", *experiment, "--arms", "mde@0.2", "--out", str(out), *more]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_first(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(words(tmp_path / "x", "--jobs", "2"), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any(": epoch 1, " in line for line in lines)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(training(tmp_path)) >= 2
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    psutil.wait_procs(children, timeout=60)
    assert training(tmp_path) == []
    assert any((tmp_path / "x" / "runs").glob("*.partial"))  # the next call goes on there
    assert list((tmp_path / "x" / "runs").glob(".*.lock")) == [] or number == signal.SIGKILL


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    process = subprocess.Popen(words(tmp_path / "x", "--jobs", "2"), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in iter(process.stderr.readline, ""):
        if ": epoch 1, " in line:
            break
    name = line.partition(",")[0]
    lock = tmp_path / "x" / "runs" / f".{run_folder(name, 0)}.lock"
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is under its folder's lock
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == EnvironmentLacks.exit_code, said
    assert f"arm {name}, seed 0: the process that trained it ended without a result" in said
    assert "signal 9" in said


def test_two_ways_at_once_are_refused(tiny_train: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="jobs=2 and ray='local'"):
        Spread(jobs=2, ray="local")
    with pytest.raises(InputError, match="in turns"):
        run_experiment("table5", tiny_train(), [0], (), tmp_path / "x", spread=Spread(jobs=2))
