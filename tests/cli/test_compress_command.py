"""`amtl-export compress` as users run it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.cli import main
from amtl_export.report.tables import size
from amtl_export.tables.plan import Target
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

KEYS = {"fields", "avg_dim_ratio", "bytes_before", "bytes_after", "auc_valid_before", "auc_valid_after", "basis"} | {
    "max_abs_logit_diff_before_cut",
    "answers_after_cut",
}


#: Runs a command in a folder of its own: the exit code, and what it says of errors.
Here = Callable[..., tuple[int, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        code = main.run(list(words))
        return code, capsys.readouterr().err

    return call


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_from_a_run_to_a_verdict(amtl_here: Command, run: Run, tmp_path: Path) -> None:
    small, plot = tmp_path / "small", tmp_path / "curve.png"
    done = amtl_here("compress", run.path, "--out", small, "--dim-budget", 0.3, "--json", "-", "--plot", plot)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) >= KEYS
    for own in report["fields"].values():
        assert set(own) >= {"dim", "avg_dim", "effective_rank", "energy"}
        assert len(own["energy"]) == own["dim"] == 12
    assert set(report["basis"]) == set(report["fields"])
    assert set(report["basis"].values()) <= {"folded", "shared", "projection"}
    assert report["avg_dim_ratio"] <= 0.3
    assert report["bytes_after"] < report["bytes_before"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads((small / "compressed.json").read_text())["report"] == report
    bundle = tmp_path / "bundle"
    assert amtl_here("export", small, "--out", bundle, "--target", "portable", "-q").returncode == 0
    judged = amtl_here("validate", bundle, "--run", small, "--json", "-")
    assert judged.returncode == 0, judged.stderr
    verdict = json.loads(judged.stdout)
    assert verdict["verdict"] == "pass"
    assert verdict["delta_auc_original"] == pytest.approx(verdict["auc_onnx"] - verdict["auc_original"])
    other = amtl_here("validate", bundle, "--run", run.path)
    assert other.returncode == 3, other.stdout + other.stderr
    assert "compressed" in " ".join((other.stdout + other.stderr).split())


def test_it_ends_with_what_each_target_would_give(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["compress", str(run.path), "--out", "./-small", "--dim-budget", "0.3"]) == 0
    said = capsys.readouterr().out.splitlines()[-5:]
    assert said[1::2] == [f"  amtl-export export ./-small --out BUNDLE{more}" for more in ("", " --target native")]
    lines: dict[Target, str] = {"portable": said[2], "native": said[4]}
    for target, line in lines.items():
        made = export("-small", target, ExportConfig(target=target)).report()
        assert f"layout {made['layout']}, {made['dtype']}, table {size(made['bytes_table'])} (" in line


def test_a_dry_run_writes_nothing(amtl: Command, run: Run, tmp_path: Path) -> None:
    done = amtl("compress", run.path, "--max-auc-drop", 0.05, "--dry-run", "--out", tmp_path / "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "principal order" in done.stdout
    assert "valid AUC" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--dim-budget", "0.5", "--max-auc-drop", "0.1"), "give one of them"),
        (("--dim-budget", "0"), "--dim-budget"),
        (("--dim-budget", "2"), "--dim-budget"),
        (("--max-auc-drop", "-1"), "--max-auc-drop"),
        (("--max-auc-drop", "x"), "--max-auc-drop"),
        (("--dim-budget", "0.01"), "one dim for each of"),
        (("--dim-budget", "0.3", "--plot", "curve.jpg"), "PNG"),
        (("--dim-budget", "0.3", "--plot", "nowhere/curve.png"), "nowhere"),
    ],
)
def test_what_is_asked_wrongly(here: Here, run: Run, words: tuple[str, ...], says: str) -> None:
    code, error = here("compress", str(run.path), "--out", "small", *words)
    assert code == 2, error
    assert says in error
    assert "Traceback" not in error
    assert names(Path()) == []


def test_a_curve_without_labels(here: Here) -> None:
    Path("model.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    return nn.Embedding(9, 4), torch.arange(9)\n"
    )
    code, error = here("compress", "model.py:build", "--out", "small", "--dim-budget", "0.5", "--plot", "curve.png")
    assert (code, "no labelled examples" in error) == (2, True), error
    assert "cut" not in error  # it is told before the work
    code, error = here("compress", "model.py", "--out", "small")
    assert (code, "fix: model.py:FUNCTION, such as model.py:build" in error) == (2, True), error
    assert names(Path()) == ["model.py"]


def test_without_a_place_to_write(here: Here, run: Run) -> None:
    code, error = here("compress", str(run.path))
    assert (code, "--dry-run" in error) == (2, True)
    assert here("compress")[0] == 2


def test_the_source_stays(here: Here, run: Run) -> None:
    shutil.copytree(run.path, "runs/run")
    Path("link").symlink_to("runs/run")
    before = names(Path())
    for source, out in (
        ("runs/run", "runs/run"),
        ("runs/run", "runs/run/small"),
        ("runs/run", "runs"),
        ("runs/run", "runs/../runs/run"),
        ("runs/run", "link"),
        ("link", "runs/run"),
    ):
        code, error = here("compress", source, "--out", out, "--dim-budget", "0.3", "--overwrite")
        assert (code, "lies in" in error) == (2, True), error
    assert names(Path()) == before


def test_an_interruption_leaves_nothing(run: Run, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("amtl-export")
    words: list[str | Path] = [program, "compress", run.path, "--out", tmp_path / "small", "--max-auc-drop", "0.01"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline()  # it says what it does, and has much left to do
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    assert names(tmp_path) == []


def test_help_names_every_flag(amtl: Command) -> None:
    done = amtl("compress", "--help")
    assert done.returncode == 0
    for flag in ("--out", "--dim-budget", "--max-auc-drop", "--all-fields", "--dry-run", "--plot", "--json", "-q"):
        assert flag in done.stdout
