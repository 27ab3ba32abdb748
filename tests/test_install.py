"""What an install has without its extras: a server's part works, the rest says what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

import amtl_export
from amtl_export.bundle.bundle import Bundle
from amtl_export.extras import EXTRA_OF, TORCH, TORCHREC, install, install_export, install_torchrec, lacking

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: What the extras bring and the base install lacks.
BROUGHT = ("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "polars", "matplotlib", "tritonclient", "ray")

#: Makes an interpreter one in which some modules are not installed, and commands too: Python imports it at its start.
SITE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""

#: What a server does.
SERVES = """
import importlib.util, json, sys
import numpy
import amtl_export
from amtl_export.bundle import encoder
from amtl_export.serving import ray_serve

opened = amtl_export.load(sys.argv[1])
sizes = {spec.name: [2 if isinstance(n, str) else n for n in spec.shape] for spec in opened.inputs}
found = opened.predict({spec.name: numpy.zeros(sizes[spec.name], spec.dtype) for spec in opened.inputs})
try:
    amtl_export.export
except amtl_export.AmtlError as error:
    said = str(error)
print(json.dumps([amtl_export.__version__, found["probability"].shape, said, "torch" in sys.modules]))
"""

#: Command → what brings what it needs.
COMMANDS = {
    "train --data synthetic --out out": "amtl-export[export,",
    "export run --out out": "amtl-export[export,",
    "validate {bundle} --run run": "amtl-export[export,",
    "bench infer {bundle} --vs run": "amtl-export[export,",
    "inspect {bundle}": "amtl-export[data]",
    "package {bundle} --triton models --name m": "amtl-export[serve]",
}


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    """The environment of processes in which no extra but ONNX Runtime is installed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(names=set(BROUGHT)))
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def run(words: list[str], environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("bundle", ["ragged"], indirect=True)
def test_a_server_needs_no_extra_but_the_runtime(base: dict[str, str], bundle: Bundle, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", SERVES, str(bundle.path)], base, tmp_path)
    assert done.returncode == 0, done.stderr
    version, shape, said, torch_is_loaded = json.loads(done.stdout)
    assert (version, shape, torch_is_loaded) == (amtl_export.__version__, [2], False)
    assert "amtl-export[export," in said


def test_commands_without_their_extra_name_it(base: dict[str, str], paged_bundle: Bundle, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "amtl_export"]
    for command, fix in COMMANDS.items():
        done = run([*program, *command.format(bundle=paged_bundle.path).split()], base, tmp_path)
        assert done.returncode == 4, f"{command}\n{done.stdout}{done.stderr}"
        assert "is not installed" in done.stderr
        assert fix in done.stderr
        assert "Traceback" not in done.stderr
    for words in (["--help"], ["train", "--help"], ["package", "--help"]):
        assert run([*program, *words], base, tmp_path).returncode == 0
    shown = json.loads(run([*program, "doctor", "--json", "-"], base, tmp_path).stdout)
    parts = {check["part"]: check for check in shown}
    assert [name for name in ("torch", "onnx", "polars", "tritonclient") if parts[name]["ok"]] == []
    assert "amtl-export[export," in parts["torch"]["fix"]
    assert parts["onnxruntime"]["ok"]


def test_fixes_are_those_of_pyproject() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {*EXTRA_OF.values(), "gpu", "data"} <= set(extras)
    assert TORCH in extras["export"]
    for module in ("torch", "onnx", "polars", "matplotlib", "ray"):
        requirements = " ".join(extras[EXTRA_OF[module]])
        assert module in requirements
        lacks = lacking(ModuleNotFoundError(name=f"{module}.part"))
        assert lacks is not None
        assert (install(EXTRA_OF[module]) in str(lacks)) or (install_export() in str(lacks))
    assert lacking(ModuleNotFoundError(name="somebody_elses")) is None


def test_torchrec_comes_beside_its_extra() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"TORCHREC := {TORCHREC}\n" in makefile
    (fbgemm,) = [r for r in PROJECT["optional-dependencies"]["distributed"] if r.startswith("fbgemm")]
    assert fbgemm.partition("==")[2] == TORCHREC.partition("==")[2]
    assert fbgemm in PROJECT["optional-dependencies"]["peers"]
    assert install_torchrec() == f"{install('distributed')} && pip install --no-deps {TORCHREC}"


def test_the_base_install_is_small() -> None:
    names = {requirement.partition(">")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"numpy", "pydantic", "click", "rich"}


@pytest.mark.network
@pytest.mark.parametrize("bundle", ["ragged"], indirect=True)
def test_a_real_base_install_from_the_wheel(outside: Any, bundle: Bundle, tmp_path: Path) -> None:
    """An environment of its own, from the wheel and a package index: it answers, and the rest names its fix."""
    venv.create(tmp_path / "base", with_pip=False)
    program = tmp_path / "base" / "bin"
    environment = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    words = ["install", "--quiet", f"{outside.wheel}[cpu]"]
    pip = [sys.executable, "-m", "pip", "--python", str(program / "python")]
    subprocess.run([*pip, *words], env=environment, check=True, timeout=300)
    done = run([str(program / "python"), "-c", SERVES, str(bundle.path)], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[1:] == [[2], json.loads(done.stdout)[2], False]
    refused = run([str(program / "amtl-export"), "train", "--data", "synthetic", "--out", "x"], environment, tmp_path)
    assert (refused.returncode, "amtl-export[export,cpu]" in refused.stderr) == (4, True)
    needed = "onnxruntime,native operators, cpu"
    asked = run([str(program / "amtl-export"), "doctor", "-q", "--require", needed], environment, tmp_path)
    assert asked.returncode == 0, asked.stderr
