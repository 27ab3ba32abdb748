import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from amtl_export.errors import InputError
from amtl_export.experiments.plan import PLANS, make_plan
from amtl_export.experiments.report import markdown, plot
from amtl_export.experiments.sweep import run_folder, sign_flip_p, summarise, sweep
from amtl_export.training.config import TrainConfig

Make = Callable[..., TrainConfig]
DATA = "synthetic:rows=2000,values=40,tags=6"


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_is_consistent(name: str, tiny_train: Make) -> None:
    plan = make_plan(name, tiny_train(), (0.2, 0.4))
    names = [arm.name for arm in plan.arms]
    assert len(set(names)) == len(names)
    assert len({run_folder(n, 0) for n in names}) == len(names)
    for number, arm in enumerate(plan.arms):
        assert arm.warm_from is None or arm.warm_from in names[:number]


def test_unknown_experiments_are_named(tiny_train: Make) -> None:
    with pytest.raises(InputError, match="'table9'"):
        make_plan("table9", tiny_train(), ())


@pytest.mark.parametrize(
    ("differences", "p"), [([0.1], 1.0), ([0.1, 0.2, 0.3], 0.25), ([0.1, -0.2, 0.3], 0.75), ([0.0, 0.0], 1.0)]
)
def test_the_paired_test_counts_sign_flips(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == p


def test_a_sweep_resumes_and_reports(tmp_path: Path, tiny_train: Make) -> None:
    base = tiny_train(data=DATA, epochs=1)
    plan = make_plan("pareto", base, (0.3,))
    first = sweep(plan, [0], tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/model.safetensors")}
    assert len(stamps) == 4
    notes: list[str] = []
    both = sweep(plan, [0, 1], tmp_path, note=notes.append)
    assert both[:4] == first  # nothing was trained again
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert len(notes) == 8

    summary = summarise("pareto", plan, base, both)
    json.dumps(summary, allow_nan=False)
    assert [arm["arm"] for arm in summary["arms"]] == ["fbe", "amtl@0.3", "magprune@0.3", "fbe D=4"]
    assert summary["arms"][0]["auc_difference"] == {"mean": 0.0, "std": 0.0}
    assert summary["arms"][1]["avg_dim_ratio"]["mean"] <= 0.3
    assert summary["arms"][3]["bytes_table"] < summary["arms"][0]["bytes_table"]
    assert markdown(summary).count("\n| ") == 1 + 4
    plot(summary, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(InputError, match="other settings"):
        sweep(make_plan("pareto", replace(base, lr=0.01), (0.3,)), [0], tmp_path)


def test_warm_and_soft_arms(tmp_path: Path, tiny_train: Make) -> None:
    base = tiny_train(data=DATA, epochs=1)
    warm = make_plan("table3", base, ())
    results = {r.arm: r for r in sweep(warm, [0], tmp_path / "t3")}
    assert results["amtl warm"].auc_test != results["amtl random"].auc_test
    ablation = make_plan("table4", base, ())
    summary = summarise("table4", ablation, base, sweep(ablation, [0], tmp_path / "t4"))
    assert "before hardening" in markdown(summary)
    soft = {arm["arm"]: arm["auc_test_soft"] for arm in summary["arms"]}
    assert soft["amtl_nste"] is not None
    assert soft["amtl"] is None


def test_the_command(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("amtl-export"))
    words = ["experiment", "fig3", "--data", DATA, "--dim", "8", "--epochs", "1", "--hidden", "8", "--seeds", "1"]
    done = subprocess.run(
        [program, *words, "--budgets", "0.5", "--out", str(tmp_path / "e"), "--json", "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {len(g) for arm in json.loads(done.stdout)["arms"] for g in arm["groups"].values()} == {7}
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "config.json",
        "result.json",
        "table.md",
        "figure.png",
        "runs",
    }
