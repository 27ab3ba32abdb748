"""The scripts under benchmarks/ run, on small data: what they say is never checked by the clock."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.tables.values import VALUE_TYPES
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, *words: object) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo(tmp_path: Path) -> None:
    shown = script("demo.py", "--out", tmp_path / "demo", "--data", "synthetic:rows=4000,values=60")
    summary = ["What was won", *shown.split("What was won")[1].strip().splitlines()]
    assert len(summary) == 10
    assert max(map(len, summary)) <= 120
    assert [line.split()[0] for line in summary[2:5]] == ["dense", "portable", "native"]
    assert summary[5].startswith("proven: portable pass, native pass")


def test_steps_of_training(tmp_path: Path) -> None:
    words = ["--values", 400, "--fields", 2, "--dim", 4, "--batch", 32, "--table-values", 300, "--table-ids", 64]
    script("epoch.py", *words, "--rounds", 1, "--out", tmp_path)
    (file,) = tmp_path.glob("*-epoch-cpu2.json")
    values = json.loads(file.read_text())
    assert [case["method"] for case in values["steps"]] == ["fbe", "amtl"] * 2
    assert {case["subject"] for case in values["tables"]} >= {"adam", "rowwise-adagrad"}
    assert all(case["cpu_ms"] >= 0 < case["ms"] for case in (*values["steps"], *values["tables"]))


@pytest.mark.long
def test_a_compressed_run(tiny_train: Callable[..., TrainConfig], tmp_path: Path) -> None:
    run = train(tiny_train(hidden=(160, 136), epochs=1), tmp_path / "run")  # layers that int8 is worth something to
    words = ["--name", "tiny", "--dim-budget", 0.5, "--seconds", 0.001, "--batch", "1,64", "--peers", "fbgemm"]
    words += ["--out", tmp_path]
    assert "portable: pass" in script("compressed.py", run.path, *words)
    (file,) = tmp_path.glob("*-tiny-compressed-*.json")
    values = json.loads(file.read_text())
    for verdict in values["verdicts"].values():  # quantized rows may move the AUC of so few examples by more than usual
        assert verdict["rows_bit_equal"] == verdict["rows_checked"] > 0
        assert all(problem.startswith(("AUC differs", "GAUC differs")) for problem in verdict["problems"]), verdict[
            "problems"
        ]
    assert values["verdicts"]["native"]["verdict"] == "pass"
    assert {verdict["bundle"] for verdict in values["verdicts"].values()} == set(values["tables"])
    subjects = {case["subject"] for case in values["cases"]}
    peers = {"onnx-dense", "onnx-dynamic-int8", "onnx-static-int8", "fbgemm-x86-int8"}
    assert subjects == {*peers, *values["tables"]} == set(values["auc"])
    assert abs(values["auc"]["fbgemm-x86-int8"] - values["auc"]["onnx-dense"]) < 0.02


def test_the_planted_table(tmp_path: Path) -> None:
    shown = script("infer_synthetic_1m.py", "--rows", 8000, "--seconds", 0.001, "--batch", "1,64", "--out", tmp_path)
    assert "mean dims 25.6" in shown
    (file,) = tmp_path.glob("*-infer-1m-*.json")
    values = json.loads(file.read_text())
    ratios = {table["subject"]: table["bytes_ratio"] for table in values["tables"]}
    assert ratios["onnx-ragged-int8"] < 0.12 < ratios["onnx-ragged"] < 0.42 < ratios["onnx-paged"] < 0.6
    fallbacks = {"onnx-ragged-fallback", "onnx-ragged-fused-fallback"}
    subjects = {"torch-eager", "torch-masked", "onnx-dense", *fallbacks, *ratios}
    assert {case["subject"] for case in values["cases"]} == subjects


@pytest.mark.long
def test_candidates_of_a_request(tmp_path: Path) -> None:
    words = ["--rows", 8000, "--batch", "1,64", "--seconds", 0.001, "--backbones", "dcnv2", "--out", tmp_path]
    assert "4 of 8 fields" in script("candidates.py", *words)
    (file,) = tmp_path.glob("*-candidates-*.json")
    cases = json.loads(file.read_text())["cases"]
    layouts = {f"onnx-{layout}" for layout in ("dense", "paged", "ragged", "ragged-fused", "ragged-layer-int8")}
    assert {case["subject"] for case in cases} == {"torch-eager", *layouts, *(f"{name}-request" for name in layouts)}
    assert {case["request_fields"] for case in cases} == {4, 6}


def test_lookups_alone(tmp_path: Path) -> None:
    words = ["--rows", 8000, "--batch", "1,64", "--seconds", 0.001, "--no-fbgemm", "--out", tmp_path]
    assert "against it" in script("lookup.py", *words)
    (file,) = tmp_path.glob("*-lookup-*.json")
    cases = json.loads(file.read_text())["cases"]
    keys = {
        "batch",
        "ids",
        "dim",
        "threads",
        "subject",
        "p50_us",
        "p95_us",
        "p99_us",
        "mean_us",
        "runs",
        "qps",
        "bytes",
    }
    assert all(keys <= set(case) for case in cases)
    assert {"onnx-dense", "onnx-paged", "onnx-ragged", "plain-c-loop"} <= {case["subject"] for case in cases}


def test_how_lookups_grow(tmp_path: Path) -> None:
    (measured,) = (ROOT / "benchmarks" / "results").glob("*-lookup-cpu2.json")
    copy = shutil.copy(measured, tmp_path / "lookup.json")
    script("growth.py", copy)
    assert (tmp_path / "lookup.png").read_bytes().startswith(b"\x89PNG")


def test_a_layer_and_its_parts(tmp_path: Path) -> None:
    words = ["--rows", 8000, "--batch", "1,64", "--seconds", 0.001, "--outputs", 20, "--out", tmp_path]
    assert "GFLOP/s" in script("first_layer.py", *words)
    (file,) = tmp_path.glob("*-first-layer-*.json")
    cases = json.loads(file.read_text())["cases"]
    assert {"gemm-alone", "ragged-linear", "useful-gflops"} <= {case["subject"] for case in cases}
    assert {case["batch"] for case in cases} == {1, 64}


def test_pooled_lookups(tmp_path: Path) -> None:
    words = ["--rows", 8000, "--batch", 4, "--length", 7, "--seconds", 0.001, "--out", tmp_path]
    assert "ragged-sum-int8" in script("pooling.py", *words)
    (file,) = tmp_path.glob("*-pooling-*.json")
    assert {case["length"] for case in json.loads(file.read_text())["cases"]} == {7}


@pytest.mark.long
def test_whole_models_beside_their_peers(tmp_path: Path) -> None:
    words = [
        "--rows",
        8000,
        "--batch",
        8,
        "--seconds",
        0.001,
        "--backbones",
        "dnn",
        "--peers",
        "fbgemm",
        "--out",
        tmp_path,
    ]
    assert "against it" in script("peers.py", *words)
    (file,) = tmp_path.glob("*-peers-*.json")
    values = json.loads(file.read_text())
    assert {"torch-eager", "onnx-dense", "onnx-ragged-fused", "fbgemm-x86-int8"} <= {
        case["subject"] for case in values["cases"]
    }
    assert all(process["load_to_first_answer_s"] > 0 for process in values["processes"].values())


@pytest.mark.long
def test_everything_a_gpu_is_asked_on_the_cpu(tmp_path: Path) -> None:
    data = "synthetic:rows=3000,values=50"
    words = ["--device", "cpu", "--rows", 8000, "--batch", "1,64", "--seconds", 0.001, "--out", tmp_path]
    shown = script("gpu", *words, "--data", data, "--train-data", data, "--past", 200_000, "--copy-bytes", 1 << 20)
    assert "every answer is right" in shown
    (file,) = tmp_path.glob("*-gpu-*.json")
    values = json.loads(file.read_text())
    assert values["problems"] == []
    assert {own["verdict"] for own in values["parity"]["trained"]["verdicts"].values()} == {"pass"}
    assert all(own["equal"] == own["rows"] == 8000 for own in values["parity"]["planted"].values())
    assert {case["batch"] for case in values["models"]["cases"]} == {1, 64}
    assert values["past"]["numbers"] > 200_000
    assert [case["method"] for case in values["training"]["cases"]] == ["fbe", "amtl", "aml", "mde", "autoemb"]
    assert file.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.long
def test_value_types_of_a_run(tmp_path: Path, run: Run) -> None:
    script("value_types.py", run.path, "--name", "tiny", "--out", tmp_path)
    (file,) = tmp_path.glob("*-tiny-value-types-*.json")
    (found,) = json.loads(file.read_text())["runs"].values()
    assert all(found[dtype]["rows_bit_equal"] == found[dtype]["rows_checked"] for dtype in VALUE_TYPES)
    sizes = [found[dtype]["bytes_table"] for dtype in VALUE_TYPES]
    assert sizes == sorted(sizes, reverse=True)


def test_ml_1m_is_skipped_in_words_where_it_is_absent(tmp_path: Path) -> None:
    assert "skipped: no ML-1M" in script("infer_ml_1m.py", "--path", tmp_path / "nowhere", "--out", tmp_path)


@pytest.mark.long
def test_a_mapped_table_through_every_command(tmp_path: Path) -> None:
    shown = script("mapped.py", "--sizes", "3000x8", "--out", tmp_path)
    (file,) = tmp_path.glob("*-mapped-*.json")
    (case,) = json.loads(file.read_text())["cases"]
    assert [own["command"].split()[0] for own in case["commands"]] == [
        "freeze",
        "compress",
        *("export", "validate") * 2,
    ]
    assert case["anonymous_bytes"] == max(own["anonymous_bytes"] for own in case["commands"]) > 1 << 20
    assert case["model_bytes"]["ragged-int8"] < case["table_bytes"]
    assert "compress frozen --dim-budget 0.3" in shown


@pytest.mark.long
def test_large_vocabularies(tmp_path: Path) -> None:
    sizes = ["--values", "1000,2000", "--rows", 5000, "--count-rows", 3000, "--train-values", 3000]
    sizes += ["--export-values", 2000]
    assert "of what steps alone hold" in script("scale.py", *sizes, "--layouts", "", "--out", tmp_path)
    (file,) = tmp_path.glob("*-scale-*.json")
    values = json.loads(file.read_text())
    assert [(case["type"], case["values"]) for case in values["encode"]] == [
        *(("int64", size) for size in (1000, 2000)),
        *(("string", size) for size in (1000, 2000)),
    ]
    assert all(case["lookup_ns_per_row"] > 0 for case in values["encode"])
    assert len({case["vocabulary"] for case in values["count"]}) == 1
    assert all(case["peak_bytes"] >= case["before_bytes"] > 0 for case in values["count"])
    assert values["train"]["end_bytes"] >= values["train"]["steps_bytes"] > 0
    assert [case["command"] for case in values["export"]] == ["freeze"]


@pytest.mark.long
def test_how_commands_grow(tmp_path: Path) -> None:
    assert "fields 8" in script("command_growth.py", "--axes", "fields", "--most", 32, "--out", tmp_path)
    (file,) = tmp_path.glob("*-growth-*.json")
    values = json.loads(file.read_text())
    assert [case["number"] for case in values["cases"]] == [8, 32]
    found = {(own["command"], own["of"]) for own in values["exponents"]}
    commands = ("train", "compress", "export", "validate")
    assert {(command, kind) for command in commands for kind in ("seconds", "anonymous_bytes")} < found
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_scores_beside_a_loop_of_ones_own(tmp_path: Path) -> None:
    words = ["--rows", 4000, "--runs", 1, "--full", 0, "--subjects", "score,polars loop", "--out", tmp_path]
    assert "killed a run of score: the same bytes" in script("score.py", *words)
    (file,) = tmp_path.glob("*-score-*.json")
    values = json.loads(file.read_text())
    assert values["compared"]["rows"] == 4000
    loop = values["compared"]["subjects"]["polars loop"]
    assert loop["max_abs_logit_difference"] < 1e-5
    assert loop["peak_bytes"] > 0
