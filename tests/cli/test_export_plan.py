"""`export --dry-run`, `--dtype`, `--max-auc-drop` and `--request-fields`, as commands."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def command(amtl_here: Command) -> Call:
    """Exit code, and what was said on either stream."""

    def call(*words: object) -> tuple[int, str]:
        done = amtl_here(*words)
        return done.returncode, done.stdout or done.stderr

    return call


def test_a_dry_run_writes_nothing_and_says_why(command: Call, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code, said = command("export", run.path, "--out", out, "--dry-run", "--target", "native")
    assert code == 0, said
    assert not out.exists()
    assert "ragged" in said
    code, said = command("export", run.path, "--dry-run", "--target", "native", "--json", "-")
    plan = json.loads(said)["plan"]["embedding"]
    assert {"layout", "page_width", "dtype", "fused", "bytes", "bytes_dense", "relative_time", "reason"} <= set(plan)
    assert plan["bytes"] < plan["bytes_dense"]


def test_without_out_it_must_be_a_dry_run(command: Call, run: Run) -> None:
    code, said = command("export", run.path)
    assert code == 2
    assert "--out" in said


@pytest.mark.parametrize(("drop", "dtype"), [(0, "fp32"), (1, "int4")])
def test_the_largest_drop_chooses_the_value_type(
    command: Call, run: Run, tmp_path: Path, drop: float, dtype: str
) -> None:
    words = ["export", run.path, "--out", tmp_path / "bundle", "--max-auc-drop", drop, "--json", "-"]
    code, said = command(*words)
    assert code == 0, said
    assert json.loads(said)["dtype"] in ("fp32", "fp16") if drop == 0 else json.loads(said)["dtype"] == dtype


def test_a_largest_drop_and_a_value_type_contradict_each_other(command: Call, run: Run, tmp_path: Path) -> None:
    code, said = command("export", run.path, "--out", tmp_path / "b", "--max-auc-drop", 1, "--dtype", "int8")
    assert code == 2, said
    assert "--dtype int8 as well" in said


def test_int8_is_judged_by_auc(command: Call, run: Run, tmp_path: Path) -> None:
    code, said = command("export", run.path, "--out", tmp_path / "b", "--layout", "ragged", "--dtype", "int8")
    assert code == 0, said
    strict = command("validate", tmp_path / "b", "--run", run.path, "--auc-atol", 0, "--json", "-")
    verdict = json.loads(command("validate", tmp_path / "b", "--run", run.path, "--auc-atol", 1, "--json", "-")[1])
    assert verdict["verdict"] == "pass"
    assert verdict["rows_bit_equal"] == verdict["rows_checked"]
    assert verdict["max_abs_logit_change_by_quantization"] > 0
    assert strict[0] == (3 if verdict["abs_delta_auc"] > 0 else 0)


def test_fields_of_the_request(command: Call, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    names = [field.name for field in run.model_config.embedded]
    code, said = command("export", run.path, "--out", out, "--request-fields", ",".join(names[:2]))
    assert code == 0, said
    request = json.loads((out / "samples" / "request.json").read_text())["inputs"]
    shapes = {tensor["name"]: tensor["shape"] for tensor in request}
    assert shapes["request_ids"] == [1, 2]
    assert shapes["ids"][0] == 4
    code, said = command("validate", out, "--run", run.path)
    assert code == 0, said
    words = ("--batch", "2", "--ids", "uniform,replay", "--seconds", 0.001, "--json", "-")
    code, said = command("bench", "infer", out, "--vs", run.path, *words)
    assert code == 0, said
    subjects = {case["subject"] for case in json.loads(said)["cases"]}
    layout = json.loads((out / "report.json").read_text())["layout"]
    assert subjects == {"torch-eager", "torch-masked", "onnx-dense", f"onnx-{layout}-request"}
    code, said = command("export", run.path, "--out", tmp_path / "other", "--request-fields", "nobody")
    assert code == 2
    assert f"allowed: {names[0]}, {names[1]}" in said
