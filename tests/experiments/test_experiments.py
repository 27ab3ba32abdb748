import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from amtl_export.errors import InputError
from amtl_export.experiments.arm import run_folder
from amtl_export.experiments.plan import PLANS, make_plan, only
from amtl_export.experiments.report import markdown, plot
from amtl_export.experiments.run import TIMED, run_experiment
from amtl_export.experiments.sweep import sign_flip_p, summarise, sweep
from amtl_export.locks import locked
from amtl_export.training.config import TrainConfig

Make = Callable[..., TrainConfig]
DATA = "synthetic:rows=2000,values=40,tags=6"


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_is_consistent(name: str, tiny_train: Make) -> None:
    plan = make_plan(name, tiny_train(data="synthetic:rows=400"), (0.2, 0.4))
    names = [arm.name for arm in plan.arms]
    assert len(set(names)) == len(names)
    folders = {run_folder(n, 0) for n in names}
    assert len(folders) == len(names)
    assert all(Path(folder).name == folder for folder in folders)
    for number, arm in enumerate(plan.arms):
        assert arm.warm_from is None or arm.warm_from in names[:number]


def test_arms_of_one_name_are_one_training_in_all_the_papers_tables(tiny_train: Make) -> None:
    seen: dict[str, TrainConfig] = {}
    for name in ("table1", "table2", "table3", "table4", "fig3", "pareto", "warm", "planted", "settings"):
        for arm in make_plan(name, tiny_train(), (0.2, 0.4), 3).arms:
            assert seen.setdefault(arm.name, arm.config) == arm.config


def test_unknown_experiments_are_named(tiny_train: Make) -> None:
    with pytest.raises(InputError, match="'table9'"):
        make_plan("table9", tiny_train(), ())
    with pytest.raises(InputError, match=r"(?s)less than one dim of 12.*0\.083.*fix: budgets="):
        make_plan("pareto", tiny_train(), (0.3, 0.05))


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
    assert len(stamps) == len(plan.arms) - 1 == 8  # compress trains nothing
    notes: list[str] = []
    both = sweep(plan, [0, 1], tmp_path, note=notes.append)
    assert both[:9] == first  # nothing was trained again
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert len(notes) == 18

    summary = summarise("pareto", plan, base, both)
    json.dumps(summary, allow_nan=False)
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    names = "fbe,fbe warm,amtl@0.3,amtl@0.3 warm,mde@0.3,compress@0.3,cut@0.3,cut@0.3 tuned,fbe D=4"
    assert list(arms) == names.split(",")
    assert arms["fbe"]["auc_difference"] == {"mean": 0.0, "std": 0.0}
    assert arms["fbe D=4"]["changes"] == {"method": "fbe", "dim": 4}
    assert all(arms[name]["avg_dim_ratio"]["mean"] <= 0.3 for name in arms if "@0.3" in name)
    assert arms["fbe D=4"]["bytes_table"] < arms["fbe"]["bytes_table"]
    assert markdown(summary).count("\n| ") == 1 + 9
    assert "| p | GAUC | logloss |" in markdown(summary)
    assert all(arm["gauc_test"]["mean"] > 0.4 for arm in summary["arms"])
    assert both[0].gauc_test != both[0].auc_test
    for arm in summary["arms"]:
        arm["gauc_test"] = None  # data without groups
    assert "GAUC" not in markdown(summary)
    plot(summary, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(InputError, match="other settings"):
        sweep(make_plan("pareto", replace(base, lr=0.01), (0.3,)), [0], tmp_path)


def test_experiments_share_their_runs(tmp_path: Path, tiny_train: Make) -> None:
    base = tiny_train(data=DATA, epochs=1)
    first, text = run_experiment("table3", base, [0], (), tmp_path, warm_epochs=2)
    arms = {arm["arm"]: arm for arm in first["arms"]}
    names = "fbe,fbe warm,mde,mde warm,autoemb,autoemb warm,autoemb D alone,amtl,amtl warm as-is,amtl warm"
    assert list(arms) == names.split(",")
    assert arms["amtl warm"]["auc_test"] != arms["amtl warm as-is"]["auc_test"]
    assert arms["amtl warm"]["changes"]["epochs"] == 2
    assert "epochs" not in arms["amtl"]["changes"]
    assert first["baseline"] == "fbe warm"
    assert arms["fbe warm"]["auc_difference"]["mean"] == 0
    assert "against fbe warm" in text
    stamp = (tmp_path / "runs" / "amtl-s0" / "model.safetensors").stat().st_mtime_ns
    ablation, text = run_experiment("table4", base, [0], (), tmp_path)
    assert (tmp_path / "runs" / "amtl-s0" / "model.safetensors").stat().st_mtime_ns == stamp
    assert "before hardening" in text
    soft = {arm["arm"]: arm["auc_test_soft"] for arm in ablation["arms"]}
    assert soft["amtl_nste"] is not None
    assert soft["amtl"] is None
    assert {"table3.json", "table3.md", "table4.json", "table4.md"} <= {p.name for p in tmp_path.iterdir()}
    # T is chosen by the valid split, and the table says so.
    grid = [arm for arm in ablation["arms"] if arm["grid"] == "amtl T"]
    assert [arm["arm"] for arm in grid] == ["amtl", "amtl T=0.1", "amtl T=10"]
    (chosen,) = (arm for arm in grid if arm["chosen"])
    assert chosen["auc_valid"]["mean"] == max(arm["auc_valid"]["mean"] for arm in grid)
    assert f"| {chosen['arm']} (best on valid) |" in text


def test_some_arms_bring_those_they_need(tiny_train: Make) -> None:
    plan = only(make_plan("table3", tiny_train(), (0.2,)), ["amtl@0.2 warm"])
    assert [arm.name for arm in plan.arms] == ["fbe", "fbe warm", "amtl@0.2 warm"]
    with pytest.raises(InputError, match=r"no such arm\n  found: amtl@0.9"):
        only(plan, ["amtl@0.9"])


def test_a_change_of_basis_has_a_control_that_selects_nothing(tmp_path: Path, tiny_train: Make) -> None:
    plan = only(make_plan("warm", tiny_train(data=DATA, epochs=1), ()), ["fbe warm ordered", "amtl warm"])
    results = {result.arm: result for result in sweep(plan, [0], tmp_path)}
    assert list(results) == ["fbe", "fbe warm", "fbe warm ordered", "amtl warm"]
    assert results["fbe warm ordered"].avg_dim_ratio == 1
    assert len({result.auc_test for result in results.values()}) == 4


def test_figure_3_shows_every_seed(tmp_path: Path, tiny_train: Make) -> None:
    base = tiny_train(data=DATA, epochs=1)
    plan = make_plan("fig3", base, ())
    assert [arm.name for arm in plan.arms] == ["fbe", "amtl untrained", "amtl", "amtl warm", "aml", "aml warm"]
    summary, text = run_experiment("fig3", base, [0, 1], (), tmp_path)
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert arms["fbe"]["rank_correlation"] == {"user": None, "item": None}  # all ids alike
    for arm in list(arms.values())[2:]:
        found = [run["rank_correlation"]["user"] for run in arm["runs"]]
        assert len(found) == 2
        assert all(value is None or -1 <= value <= 1 for value in found)
    assert "user: rank correlation" in text
    assert "- amtl warm: user " in text


def test_the_planted_rank_has_a_table(tmp_path: Path, tiny_train: Make) -> None:
    """An arm that is made from a run is measured as a trained one, and an oracle trains with the dims it is given."""
    base = tiny_train(data="synthetic:rows=3000,values=40,rank=8,tags=0,exponent=80", epochs=1)
    summary, _ = run_experiment("planted", base, [0], (0.3,), tmp_path)
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert summary["expected"] == "the planted rank"
    assert arms["oracle dims"]["rank_correlation"]["user"]["mean"] == pytest.approx(1)
    assert arms["reversed dims"]["rank_correlation"]["item"]["mean"] < -0.5
    assert 0.1 < arms["compress@0.3"]["avg_dim_ratio"]["mean"] <= 0.3
    assert arms["compress@0.3"]["auc_valid"] is None
    assert arms["compress@0.3"]["bytes_table"] < arms["fbe"]["bytes_table"]
    assert not (tmp_path / "runs" / "compress@0.3-s0").exists()
    with pytest.raises(InputError, match="planted rank"):
        make_plan("planted", tiny_train(data="ml-1m"), (0.3,))


def test_principal_order_recovers_a_planted_rank(tmp_path: Path, tiny_train: Make) -> None:
    """Dims that no training chose rise with the rank that the data was made with."""
    data = "synthetic:rows=40000,values=120,rank=8,tags=0,exponent=80"
    base = TrainConfig(data=data, dim=16, batch_size=512)
    plan = make_plan("planted", base, (0.2,))
    chosen = replace(plan, arms=tuple(arm for arm in plan.arms if arm.name in ("fbe", "compress@0.2")))
    whole, cut = sweep(chosen, [0], tmp_path)
    assert cut.avg_dim_ratio <= 0.2
    assert cut.auc_test > whole.auc_test - 0.005
    assert all(value is not None and value >= 0.5 for value in cut.rank_correlation.values()), cut.rank_correlation


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


def test_two_processes_do_not_share_an_experiment(tmp_path: Path) -> None:
    words = [
        "experiment",
        "table1",
        "--data",
        DATA,
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--dim",
        "8",
        "--arms",
        "fbe",
        "-q",
    ]
    program = [
        sys.executable,
        "-c",
        "from amtl_export.cli.main import main; main()",
        *words,
        "--out",
        str(tmp_path / "x"),
    ]
    with locked(tmp_path / "x"):
        refused = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert f"found: process {os.getpid()} on " in refused.stderr
    assert list(tmp_path.iterdir()) == []
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
