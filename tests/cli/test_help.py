import subprocess
import sys
from collections.abc import Callable

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = [
    ["train"], ["freeze"], ["export"], ["validate"], ["bench", "train"], ["bench", "infer"], ["bench", "server"],
    ["inspect"], ["data", "describe"], ["doctor"], ["experiment"], ["package"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_the_shared_options(amtl: Command, command: list[str]) -> None:
    done = amtl(*command, "--help")
    assert done.returncode == 0
    for option in ("--json", "--quiet", "--seed", "--overwrite"):
        assert option in done.stdout


def test_the_root_lists_every_command(amtl: Command) -> None:
    shown = amtl("--help").stdout
    assert all(f"\n  {command[0]} " in shown for command in COMMANDS)
    assert amtl("--version").stdout.startswith("amtl-export, version 0.")


def test_help_loads_nothing_heavy() -> None:
    """What keeps --help under 0.3 s: checked by what is imported, not by the clock."""
    code = (
        "import sys\n"
        "from amtl_export.cli.main import cli\n"
        "for words in (['--help'], ['train', '--help'], ['bench', 'infer', '--help']):\n"
        "    cli.main(words, standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'polars', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_names_costs_and_fixes(amtl: Command) -> None:
    done = amtl("doctor")
    assert done.returncode == 0
    assert "torch" in done.stdout
    assert "onnxruntime" in done.stdout
    asked = amtl("doctor", "-q", "--require", "CPUExecutionProvider")
    assert asked.returncode == 0
