"""`bench server`: MLPerf's LoadGen asks, every answer is checked, a missed level is an exit code."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from amtl_export.bench.load import Answer, Request, Scenario, Scores, drive
from amtl_export.bench.process import Samples, pss, watched
from amtl_export.bench.server import ServerBenchConfig, bench_server
from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.report.tables import load_report
from amtl_export.spec import Feed
from amtl_export.training.run import Run

PATIENT = ServerBenchConfig(batch=8, slo_ms=60_000, seconds=0.2, workers=2)


def test_in_this_process(paged_bundle: Bundle, run: Run) -> None:
    notes: list[str] = []
    found = bench_server(paged_bundle.path, run.path, PATIENT, note=notes.append)
    scenarios = [case["scenario"] for case in found["cases"]]
    assert scenarios[:2] == ["single-stream", "offline"]
    assert set(scenarios[2:]) == {"server"}
    assert len(notes) == len(scenarios)
    assert found["met"]
    assert found["max_qps"] == max(case["target_qps"] for case in found["cases"] if case["target_qps"])
    for case in found["cases"]:
        assert 0 < case["p50_ms"] <= case["p90_ms"] <= case["p99_ms"]
        assert case["requests"] > 0
        assert case["qps"] > 0
        assert case["pss_bytes"] > 1_000_000
        assert case["processors"] >= 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_soak_samples_memory(paged_bundle: Bundle, run: Run) -> None:
    config = replace(PATIENT, qps=50.0, soak_seconds=1.0)
    notes: list[str] = []
    found = bench_server(paged_bundle.path, run.path, config, note=notes.append)
    soak = found["soak"]
    assert soak["target_qps"] == 0.8 * 50
    assert soak["requests"] >= 20
    assert len(soak["seconds"]) == len(soak["pss_bytes"]) > 5
    assert min(soak["pss_bytes"]) > 1_000_000
    assert notes[-1].startswith("soak: ")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(load_report(found))
    assert re.search(
        r"soak: [\d,]+ requests, all right.*\nmemory .* slope [+-][\d.]+ MB a minute", console.export_text()
    )


def test_the_slope_is_of_memory_that_has_settled() -> None:
    seconds = [float(s) for s in range(0, 601, 6)]
    memory = [int(5e6 * min(s, 60) + 1e5 * s / 60) for s in seconds]  # grows fast for a minute, then 0.1 MB a minute
    assert Samples(seconds, memory).slope == pytest.approx(1e5, rel=1e-3)
    assert Samples([0.0], [5]).slope == 0


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no such process"), watched(2**22 + 1):
        pass


def test_a_process_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system refuses it; who may read all processes finds none such."""

    def refused(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refused)
    with pytest.raises(InputError, match="somebody else"):
        pss(os.getpid())


def test_a_missed_level_is_exit_code_5(paged_bundle: Bundle, run: Run, tmp_path: Path) -> None:
    words = ["bench", "server", paged_bundle.path, "--run", run.path, "--qps", 20, "--seconds", 0.2, "--batch", 4]
    program = str(Path(sys.executable).with_name("amtl-export"))

    def call(*more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, [*words, *more])], capture_output=True, text=True, check=False)

    plot = tmp_path / "load.png"
    held = call("--slo-ms", 60_000, "--plot", plot)
    assert held.returncode == 0, held.stderr
    assert "20 requests of 4 rows a second hold a p99 of 60000 ms" in held.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    missed = call("--slo-ms", 1e-6)
    assert missed.returncode == 5, missed.stderr
    assert "20 requests of 4 rows a second miss a p99" in missed.stdout


def test_a_bundle_of_another_run_is_refused(paged_bundle: Bundle, run: Run, tmp_path: Path) -> None:
    other = Path(shutil.copytree(paged_bundle.path, tmp_path / "other"))
    signature = other / "signature.json"
    values = json.loads(signature.read_text(encoding="utf-8")) | {"vocabulary_hash": "0" * 64}
    signature.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="not of this run"):
        bench_server(other, run.path, PATIENT)


def right(feed: Feed) -> Scores:
    scores: Scores = feed["ids"][:, 0].astype(np.float32)
    return scores


def wrong(feed: Feed) -> Scores:
    return right(feed) + np.float32(1e-3 if feed["ids"][0, 0] == 3 else 0)


def failing(feed: Feed) -> Scores:
    if feed["ids"][0, 0] == 2:
        raise ConnectionError("the server is gone")
    return right(feed)


@pytest.mark.parametrize("scenario", ["single-stream", "offline", "server"])
def test_wrong_answers_and_failures_are_noticed(scenario: Scenario) -> None:
    requests = [Request({"ids": np.full((2, 1), i)}, np.array([i, i], np.float32)) for i in range(4)]

    def answered(answer: Answer) -> int:
        return drive(lambda: answer, requests, scenario, workers=2, seconds=0.2, qps=200).requests

    assert answered(right) > 4
    with pytest.raises(ValidationFailed, match=r"request 3: off by 0\.001"):
        answered(wrong)
    with pytest.raises(ValidationFailed, match="request 2: the server is gone"):
        answered(failing)
