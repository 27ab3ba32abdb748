"""The house rules of the design, checked on the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from amtl_export.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]

#: Rooms and single files of amtl_export/, each of which may import what stands above it. `models` knows none of them.
ROOMS = [
    *(
        "errors",
        "extras",
        "stages",
        "spec",
        "interruptions",
        "locks",
        "files",
        "scratch",
        "typed",
        "metrics",
        "compare",
        "native",
    ),
    *("models", "principal", "data", "training", "source", "traffic", "freezing", "tables", "graph"),
    *("compression", "runtime", "cluster", "doctor"),
    *("bundle", "validation", "bench", "serving", "scoring", "report", "experiments"),
]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_imports_point_one_way() -> None:
    for file in sources("models"):
        own = {name for name in imports(file) if name.startswith("amtl_export")}
        assert all(name.startswith("amtl_export.models") for name in own), file
    for file in sources("amtl_export"):
        if file.name == "__main__.py":
            continue  # is the command line
        assert not [name for name in imports(file) if name.startswith("amtl_export.cli")], file


def test_rooms_import_downwards() -> None:
    for file in sources("amtl_export"):
        room = file.relative_to(ROOT / "amtl_export").parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", "cli", "models"):
            continue
        parts = [name.split(".") for name in imports(file) if name.startswith("amtl_export.")]
        above = [".".join(part) for part in parts if ROOMS.index(part[1]) > ROOMS.index(room)]
        assert not above, f"{file} imports {above}, which stand after {room}"


def test_the_package_lists_its_rooms() -> None:
    listed = re.findall(
        r'^  "amtl_export\.(\w+)",$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    there = {path.parent.name for path in (ROOT / "amtl_export").glob("*/__init__.py")}
    assert set(listed) == there
    assert there - {"cli"} <= set(ROOMS)


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Every long flag of a command and of the commands below it."""
    yield from (name for parameter in command.params for name in parameter.opts if name.startswith("--"))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options(below, context)


def test_only_the_command_line_names_flags() -> None:
    """The library says `layout='paged'`; cli/errors.py makes that `--layout paged`. Other programs have flags too."""
    ours = set(options(cli, click.Context(cli)))
    assert {"--layout", "--overwrite", "--pid"} <= ours
    for file in [*sources("amtl_export"), *sources("models")]:
        if "cli" in file.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = ours & set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", node.value))
                assert not named, f"{file}, line {node.lineno}: {named}"


def test_commands_are_thin() -> None:
    for file in sources("cli"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 170, file


def test_files_stay_small() -> None:
    for folder in ("amtl_export", "cli", "models"):
        for file in sources(folder):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_nothing_foreign_lands_in_site_packages() -> None:
    import amtl_export.cli.main
    import amtl_export.models

    assert amtl_export.cli.main.__name__ == "amtl_export.cli.main"
    code = "import importlib.util as u; assert not u.find_spec('cli') and not u.find_spec('models')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_unpickled_or_evaluated() -> None:
    forbidden = {"torch.load", "torch.save", "eval", "exec", "pickle.load", "pickle.loads", "numpy.load", "joblib.load"}
    for folder in ("amtl_export", "cli", "models", "benchmarks"):
        for file in sources(folder):
            assert not imports(file) & {"pickle", "cloudpickle", "joblib", "dill"}, file
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) not in forbidden, f"{file}, line {node.lineno}"
                    if ast.unparse(node.func) == "np.load":
                        assert "allow_pickle=False" in ast.unparse(node), f"{file}, line {node.lineno}"
