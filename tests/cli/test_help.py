import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import get_args

import click
import pytest
from click.shell_completion import ShellComplete

from amtl_export.bundle.export import ExportConfig
from amtl_export.cli.experiment import EXPERIMENTS
from amtl_export.cli.main import cli
from amtl_export.doctor import examine, named_parts
from amtl_export.experiments.plan import PLANS
from amtl_export.models.config import BACKBONE_NAMES, METHOD_NAMES
from amtl_export.models.ctr import BACKBONES, METHODS
from amtl_export.tables.plan import FirstLayer, LayerDtype, LayoutName, Target
from amtl_export.tables.values import ValueTypeName
from amtl_export.training.config import TrainConfig

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = [
    ["train"], ["freeze"], ["export"], ["validate"], ["bench", "train"], ["bench", "infer"], ["bench", "server"],
    ["inspect"], ["data", "describe"], ["doctor"], ["experiment"], ["package"], ["compress"],
    ["score"], ["report"], ["compare"],
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


def options(command: list[str]) -> Iterator[click.Option]:
    """Of a command."""
    found: click.Command = cli
    for word in command:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None
        found = inner
    yield from (own for own in found.params if isinstance(own, click.Option))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_default_is_shown(command: list[str]) -> None:
    for option in options(command):
        if option.is_flag or option.default in (None, "", ()) or callable(option.default):
            continue
        if "Sentinel" in type(option.default).__name__:
            continue  # click's own sign of none
        assert option.show_default or "[default" in (option.help or ""), option.name


def test_defaults_are_those_of_python() -> None:
    """What a command does without options is what the function does without arguments."""
    plain, export = TrainConfig(data="synthetic"), ExportConfig()
    shown = {option.name: option.default for option in options(["train"])}
    for name in ("method", "backbone", "dim", "epochs", "patience", "lr", "batch_size", "dropout", "select_on"):
        assert shown[name] == getattr(plain, name), name
    assert shown["hidden"] == ",".join(map(str, plain.hidden))
    assert shown["temperature"] == plain.selection.temperature
    for option in options(["export"]):
        if option.name in ("layout", "dtype", "target", "first_layer", "layer_dtype", "id_policy"):
            assert option.default == getattr(export, option.name), option.name


def test_choices_are_those_of_the_library() -> None:
    assert set(METHOD_NAMES) == set(METHODS)
    assert set(BACKBONE_NAMES) == set(BACKBONES)
    assert set(EXPERIMENTS) == {*PLANS, "table5"}
    wanted = {"layout": LayoutName, "dtype": ValueTypeName, "target": Target, "first_layer": FirstLayer}
    wanted["layer_dtype"] = LayerDtype
    found = {option.name: option.type for option in options(["export"])}
    for name, names in wanted.items():
        kind = found[name]
        assert isinstance(kind, click.Choice)
        assert tuple(kind.choices) == get_args(names), name


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "train"),
        (["bench", "infre"], "infer"),
        (["experiment", "tabel1", "--data", "synthetic", "--out", "x"], "table1"),
        (["train", "--data", "synthetic", "--method", "autoembed", "--out", "x"], "autoemb"),
        (["train", "--data", "synthetic", "--backbone", "deepfn", "--out", "x"], "deepfm"),
        (["export", "run", "--layout", "raged", "--out", "x"], "ragged"),
    ],
)
def test_near_misses_are_named(amtl: Command, words: list[str], meant: str) -> None:
    done = amtl(*words)
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
    assert meant in done.stderr.split("Did you mean")[1]


def test_the_module_is_the_command(amtl: Command) -> None:
    words = [sys.executable, "-m", "amtl_export", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == amtl("--version").stdout


def test_doctor_requires_parts_by_the_names_that_it_prints(amtl: Command) -> None:
    parts = [check.part for check in examine()]
    assert named_parts(", ".join(parts), parts) == parts
    assert named_parts("torch,onnx , nothing", parts) == ["torch", "onnx", "nothing"]
    done = amtl("doctor", "-q", "--require", "python, native operators, cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert amtl("doctor", "-q", "--require", "torhc").returncode == 2


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        ("", "ex", ["export", "experiment"]),
        ("bench", "i", ["infer"]),
        ("export", "--lay", ["--layout", "--layer-dtype"]),
        ("export x --layout", "p", ["paged"]),
        ("experiment", "table", ["table1", "table2", "table3", "table4", "table5"]),
    ],
)
def test_a_shell_completes(words: str, begun: str, offered: list[str]) -> None:
    completed = ShellComplete(cli, {}, "amtl-export", "_AMTL_EXPORT_COMPLETE").get_completions(words.split(), begun)
    assert [item.value for item in completed] == offered


@pytest.mark.parametrize(
    "words", ["export", "inspect", "validate b --run", "freeze x --out", "score b --data", "train --data"]
)
def test_a_shell_completes_paths(words: str) -> None:
    completed = ShellComplete(cli, {}, "amtl-export", "_AMTL_EXPORT_COMPLETE").get_completions(words.split(), "run")
    assert [(item.value, item.type) for item in completed] == [("run", "file")]
