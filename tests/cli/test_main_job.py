"""The main job from the shell, on somebody else's files."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amtl_export.cli import main as main_module
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

SCHEMA = """
label = "outcome = 'sale'"
filter = "quantity > 0"

[files]
separator = ";"
missing = ["n/a"]

[split]
rule = "random"
valid = 0.15
test = 0.15

[[field]]
name = "shop"
kind = "categorical"

[[field]]
name = "customer"
kind = "categorical"

[[field]]
name = "outcome_kind"
column = "channel"
kind = "categorical"
governed = false

[[field]]
name = "tags"
kind = "multi-valued"
separator = "|"
pool = "sum"

[[field]]
name = "price"
kind = "numeric"
transform = "log1p"

[[field]]
name = "outcome_text"
column = "outcome"
kind = "categorical"
governed = false
"""


def own_files(folder: Path) -> Path:
    """Strings, missing values, separators and newlines in quotes, a multi-valued column, two files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    # The label's own column must not be a feature; it is declared a text so that the expression compares texts.
    schema = SCHEMA.rsplit("\n[[field]]", 1)[0].replace("outcome = 'sale'", "sold = 1")
    (folder / "schema.toml").write_text(schema)
    for number in range(2):
        lines = ["customer;shop;channel;tags;price;quantity;sold\n"]
        for _ in range(1500):
            customer, shop = int(rng.zipf(1.3)) % 60, int(rng.zipf(1.5)) % 20
            tags = "|".join(f"tag {t}" for t in rng.integers(0, 9, rng.integers(0, 4)))
            name = f'"Müller; Söhne ""No. {shop}"""' if shop % 2 else f"shop, {shop}"
            price = "n/a" if rng.random() < 0.1 else f"{rng.gamma(2, 20):.2f}"
            sold = int(rng.random() < 0.2 + 0.5 * (customer % 3 == 0))
            channel = ["web", "app", ""][int(rng.integers(0, 3))]
            lines.append(f"c{customer};{name};{channel};{tags};{price};{rng.integers(0, 5)};{sold}\n")
        (folder / f"part{number}.csv").write_text("".join(lines), encoding="utf-8")
    return folder


def test_somebody_elses_files_by_schema_alone(tmp_path: Path, amtl: Command) -> None:
    data = own_files(tmp_path / "sales")
    described = amtl("data", "describe", "--data", data, "--json", "-")
    assert described.returncode == 0, described.stderr
    summary = json.loads(described.stdout)
    assert [f["name"] for f in summary["fields"]] == ["shop", "customer", "outcome_kind", "tags"]
    assert summary["numeric"][0]["missing_ratio"] == pytest.approx(0.1, abs=0.03)

    run, bundle = tmp_path / "run", tmp_path / "bundle"
    small = ("--dim", 12, "--epochs", 6, "--lr", 0.01, "--hidden", "16,8", "--batch-size", 128)
    trained = amtl("train", "--data", data, *small, "--out", run, "--json", tmp_path / "m.json")
    assert trained.returncode == 0, trained.stderr
    assert "epoch  1: loss" in trained.stderr
    assert "examples/s" in trained.stderr
    assert json.loads((tmp_path / "m.json").read_text())["auc_test"] > 0.55
    for layout in ("dense", "paged"):
        exported = amtl("export", run, "--out", bundle, "--layout", layout, "--overwrite")
        assert exported.returncode == 0, exported.stderr
        assert f"layout {layout}" in exported.stdout
        validated = amtl("validate", bundle, "--run", run)
        assert validated.returncode == 0, validated.stdout
        assert "PASS" in validated.stdout
    inspected = amtl("inspect", bundle, "--plot", tmp_path / "dims.png")
    assert inspected.returncode == 0, inspected.stderr
    assert "Mean dims by frequency group" in inspected.stdout
    assert (tmp_path / "dims.png").read_bytes().startswith(b"\x89PNG")
    timed = amtl("bench", "infer", bundle, "--vs", run, "--batch", "1,32", "--seconds", 0.1, "--json", "-")
    assert timed.returncode == 0, timed.stderr
    assert {c["subject"] for c in json.loads(timed.stdout)["cases"]} == {
        "torch-eager", "torch-masked", "onnx-dense", "onnx-paged",
    }  # fmt: skip


def test_freeze_then_export(tmp_path: Path, amtl: Command, run: Run) -> None:
    assert amtl("freeze", run.path, "--out", tmp_path / "frozen", "-q").returncode == 0
    exported = amtl("export", tmp_path / "frozen", "--out", tmp_path / "bundle", "--json", "-")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["origin"]["method"] == "amtl"
    assert amtl("validate", tmp_path / "bundle", "--run", run.path, "-q").returncode == 0


def test_quiet_is_quiet(tmp_path: Path, amtl: Command, run: Run) -> None:
    done = amtl("export", run.path, "--out", tmp_path / "b", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failed_validation_is_exit_code_3_with_its_json(bundle_copy: Path, amtl: Command, run: Run) -> None:
    with (bundle_copy / "report.json").open("a") as report:
        report.write("\n")
    done = amtl("validate", bundle_copy, "--run", run.path, "--json", "-")
    assert done.returncode == 3
    values = json.loads(done.stdout)
    assert values["verdict"] == "fail"
    assert values["problems"] == [
        "files differ from SHA256SUMS: report.json",
        "not what export writes: report.json: the same values laid out otherwise than export writes them",
    ]
    quiet = amtl("validate", bundle_copy, "--run", run.path, "-q")
    assert quiet.returncode == 3
    assert "report.json" in quiet.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on(tmp_path: Path, amtl: Command, number: signal.Signals) -> None:
    """A real signal to a real process after its first epoch; the same command finishes the run."""
    arguments = ["--data", "synthetic:rows=30000,values=500", "--epochs", "3", "--out", str(tmp_path / "run")]
    program = str(Path(sys.executable).with_name("amtl-export"))
    with subprocess.Popen([program, "train", *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch  1"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert not (tmp_path / "run").exists()
    resumed = amtl("train", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch" in resumed.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("stage", "number"), [("*.part", signal.SIGINT), ("*.part/model.onnx", signal.SIGTERM)])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, run: Run, stage: str, number: signal.Signals) -> None:
    """The signal comes while the graph is made, which takes seconds; or when it is written, and is tried."""
    program = str(Path(sys.executable).with_name("amtl-export"))
    words = [program, "export", str(run.path), "--out", str(tmp_path / "b"), "-q"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.glob(stage)):
            time.sleep(0.001)
        assert process.poll() is None, "it ended before the stage was seen"
        process.send_signal(number)
        _, said = process.communicate()
    assert (process.returncode, said.strip()) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_that_a_library_swallows_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swallow(*_: object, **__: object) -> None:
        try:
            main_module._interrupt(signal.SIGTERM, None)
        except BaseException:
            raise AttributeError("partially initialized module") from None

    monkeypatch.setattr(main_module, "_signals", [])
    monkeypatch.setattr(main_module.cli, "main", swallow)
    assert main_module.run(["export"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


#: A library that ends its process if an exception comes while it is loaded, as those in C++ do.
LIBRARY = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
except BaseException:
    os.abort()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_does_not_reach_a_library_that_is_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "library.py").write_text(LIBRARY.format(name=name))
    handle = f"signal.signal(signal.{name}, main._interrupt)"
    program = (
        f"import signal, sys; from amtl_export.cli import main; {handle}; sys.path[:0] = sys.argv[1:]; import library"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
