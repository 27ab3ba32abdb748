"""`package`, as a command."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from amtl_export.bundle.bundle import Bundle

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_versions_one_after_the_other(amtl_here: Command, paged_bundle: Bundle, tmp_path: Path) -> None:
    words = ("package", paged_bundle.path, "--triton", tmp_path / "models", "--name", "ctr")
    shown = amtl_here(*words, "--backend", "python").stdout
    assert "version 1 of ctr, backend python" in shown
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in shown.splitlines()
    made = json.loads(amtl_here(*words, "--backend", "python", "--json", "-").stdout)
    assert made == {
        "model": str(tmp_path / "models" / "ctr"),
        "version": 2,
        "path": str(tmp_path / "models" / "ctr" / "2"),
    }


def test_the_servers_command_can_be_pasted(amtl_here: Command, paged_bundle: Bundle, tmp_path: Path) -> None:
    """A long path is not broken, and a space is quoted."""
    repository = tmp_path / "my models" / ("long" * 40)
    shown = amtl_here("package", paged_bundle.path, "--triton", repository, "--name", "ctr").stdout
    assert ["tritonserver", f"--model-repository={repository}"] in [shlex.split(line) for line in shown.splitlines()]


def test_what_is_refused(amtl_here: Command, paged_bundle: Bundle, tmp_path: Path) -> None:
    words = ("package", paged_bundle.path, "--triton", tmp_path / "models", "--name", "ctr")
    refused = amtl_here(*words, "--overwrite")
    assert refused.returncode == 2
    assert "No version is ever replaced" in refused.stderr
    assert not (tmp_path / "models").exists()
    assert amtl_here(*words).returncode == 0
    other = amtl_here(*words, "--threads", 2)
    assert other.returncode == 2
    assert "configured otherwise" in other.stderr
    missing = amtl_here("package", tmp_path / "nobody", "--triton", tmp_path / "models", "--name", "ctr")
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
    assert sorted(p.name for p in (tmp_path / "models" / "ctr").iterdir() if p.name.isdecimal()) == ["1"]


def test_values_instead_of_ids(amtl_here: Command, paged_bundle: Bundle, tmp_path: Path) -> None:
    words = ("package", paged_bundle.path, "--triton", tmp_path / "models", "--backend", "python", "--raw-features")
    assert amtl_here(*words, "--name", "graph").returncode == 0
    assert amtl_here(*words, "--name", "many", "--graph-keys", 10).returncode == 0
    made = sorted(p.name for p in (tmp_path / "models").iterdir())
    assert made == ["graph", "many", "many_encoder", "many_scorer"]
    (tmp_path / "models" / "many_scorer" / "config.json").write_text("{}")
    refused = amtl_here(*words, "--name", "many", "--graph-keys", 10)
    assert refused.returncode == 2
    assert "many_scorer" in refused.stderr
    assert not (tmp_path / "models" / "many" / "2").exists()
    assert not (tmp_path / "models" / "many_encoder" / "2").exists()
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == made


def test_without_tritons_classes(paged_bundle: Bundle, tmp_path: Path) -> None:
    """As in an installation without the extra `serve`."""
    words = ["package", str(paged_bundle.path), "--triton", str(tmp_path / "models"), "--name", "ctr"]
    code = (
        f"import sys; sys.modules['tritonclient'] = None; from amtl_export.cli.main import run; sys.exit(run({words}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "amtl-export[serve]" in done.stderr
    assert not (tmp_path / "models").exists()
