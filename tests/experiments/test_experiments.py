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
from amtl_export.experiments.run import TIMED, run_experiment
from amtl_export.experiments.sweep import run_folder, sign_flip_p, summarise, sweep
from amtl_export.training.config import TrainConfig

Make = Callable[..., TrainConfig]
DATA = "synthetic:rows=2000,values=40,tags=6"


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_is_consistent(name: str, tiny_train: Make) -> None:
    plan = make_plan(name, tiny_train(), (0.2, 0.4))
    names = [arm.name for arm in plan.arms]
    assert len(set(names)) == len(names)
    folders = {run_folder(n, 0) for n in names}
    assert len(folders) == len(names)
    assert all(Path(folder).name == folder for folder in folders)
    for number, arm in enumerate(plan.arms):
        assert arm.warm_from is None or arm.warm_from in names[:number]


def test_arms_of_one_name_are_one_training_in_all_the_papers_tables(tiny_train: Make) -> None:
    seen: dict[str, TrainConfig] = {}
    for name in ("table1", "table2", "table3", "table4", "fig3", "pareto", "settings"):
        for arm in make_plan(name, tiny_train(), (0.2, 0.4)).arms:
            assert seen.setdefault(arm.name, arm.config) == arm.config


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
    assert len(stamps) == len(plan.arms) == 6
    notes: list[str] = []
    both = sweep(plan, [0, 1], tmp_path, note=notes.append)
    assert both[:6] == first  # nothing was trained again
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert len(notes) == 12

    summary = summarise("pareto", plan, base, both)
    json.dumps(summary, allow_nan=False)
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert list(arms) == ["fbe", "amtl@0.3", "mde@0.3", "cut@0.3", "cut@0.3 tuned", "fbe D=4"]
    assert arms["fbe"]["auc_difference"] == {"mean": 0.0, "std": 0.0}
    assert arms["fbe D=4"]["changes"] == {"method": "fbe", "dim": 4}
    assert all(arms[name]["avg_dim_ratio"]["mean"] <= 0.3 for name in arms if "@0.3" in name)
    assert arms["fbe D=4"]["bytes_table"] < arms["fbe"]["bytes_table"]
    assert markdown(summary).count("\n| ") == 1 + 6
    plot(summary, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(InputError, match="other settings"):
        sweep(make_plan("pareto", replace(base, lr=0.01), (0.3,)), [0], tmp_path)


def test_experiments_share_their_runs(tmp_path: Path, tiny_train: Make) -> None:
    base = tiny_train(data=DATA, epochs=1)
    warm, _ = run_experiment("table3", base, [0], (), tmp_path)
    aucs = {arm["arm"]: arm["auc_test"]["mean"] for arm in warm["arms"]}
    assert set(aucs) == {"fbe", "fbe warm", "autoemb", "amtl", "amtl warm"}
    assert aucs["amtl warm"] != aucs["amtl"]
    stamp = (tmp_path / "runs" / "amtl-s0" / "model.safetensors").stat().st_mtime_ns
    ablation, text = run_experiment("table4", base, [0], (), tmp_path)
    assert (tmp_path / "runs" / "amtl-s0" / "model.safetensors").stat().st_mtime_ns == stamp
    assert "before hardening" in text
    soft = {arm["arm"]: arm["auc_test_soft"] for arm in ablation["arms"]}
    assert soft["amtl_nste"] is not None
    assert soft["amtl"] is None
    assert {"table3.json", "table3.md", "table4.json", "table4.md"} <= {p.name for p in tmp_path.iterdir()}


def test_table5_times_training_and_both_kinds_of_inference(tmp_path: Path, tiny_train: Make) -> None:
    summary, text = run_experiment("table5", tiny_train(data=DATA, epochs=1), [0], (), tmp_path)
    assert [case["method"] for case in summary["cases"]] == list(TIMED)
    for case in summary["cases"]:
        for measure in ("epoch", "inference_torch", "inference_onnx"):
            assert len(case[f"{measure}_seconds"]) == 1
            assert case[f"{measure}_seconds"][0] > 0
    assert text.count("\n| ") == 1 + len(TIMED)


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
        "fig3.json",
        "fig3.md",
        "fig3.png",
        "runs",
    }
