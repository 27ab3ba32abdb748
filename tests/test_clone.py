"""A fresh clone beside an installed wheel: imports resolve in the clone, wheel and sdist hold real files."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import amtl_export

IMPORTS = (
    "from amtl_export import export, train, load_run\n"
    "import amtl_export.models.config, amtl_export.cli.main\n"
    "for module in (amtl_export, amtl_export.models.config, amtl_export.cli.main): print(module.__file__)"
)


def python_files(clone: Path) -> set[str]:
    """Of the package as it is imported: those of cli/ and models/ below amtl_export/."""
    below = {
        f"amtl_export/{path.relative_to(clone)}" for room in ("cli", "models") for path in (clone / room).rglob("*.py")
    }
    own = {str(path.relative_to(clone)) for path in (clone / "amtl_export").rglob("*.py")}
    return {name for name in below | own if "__pycache__" not in name}


def test_imports_resolve_to_the_clone_beside_a_wheel(outside: Any, clone: Path, tmp_path: Path) -> None:
    done = outside.run("python", "-c", IMPORTS, cwd=clone)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(clone) for line in done.stdout.splitlines()), done.stdout
    elsewhere = outside.run("python", "-c", IMPORTS, cwd=tmp_path)
    assert all(Path(line).is_relative_to(outside.site) for line in elsewhere.stdout.splitlines()), elsewhere.stdout


def test_the_clone_takes_the_installed_library_of_its_sources(outside: Any, clone: Path) -> None:
    """Python in a checkout imports the checkout, which has built nothing; a library of other sources is not taken."""
    code = "from amtl_export.native import library_path; print(library_path())"
    asked = outside.run("python", "-c", code, cwd=clone)
    assert asked.stdout.strip() == str(outside.site / "amtl_export" / "native" / "amtl_ort.so"), asked.stderr
    with (clone / "amtl_export" / "native" / "check.c").open("a") as source:
        source.write("\n")
    assert outside.run("python", "-c", code, cwd=clone).stdout.strip() == "None"


def test_imports_resolve_in_a_clone_that_is_installed_nowhere(clone: Path) -> None:
    paths = os.pathsep.join([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(  # -S: no editable install steps in
        [sys.executable, "-S", "-c", IMPORTS],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(clone) for line in done.stdout.splitlines())


def test_mypy_resolves_the_links(clone: Path) -> None:
    code = "import amtl_export.models.config, amtl_export.cli.main"
    how = ["--config-file=", "--follow-imports=skip", "--cache-dir=/dev/null", "-c"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", MYPY, *how, code], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


#: mypy, of an interpreter that has nothing installed.
MYPY = (
    f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); from mypy.main import main; "
    "main(args=['--no-site-packages', *sys.argv[1:]], clean_exit=True)"
)


def test_the_wheel_holds_every_file_once(outside: Any, clone: Path) -> None:
    with zipfile.ZipFile(outside.wheel) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".py")]
        assert sorted(names) == sorted(python_files(clone))
        main = wheel.read("amtl_export/cli/main.py")
        tags = [line for line in wheel.read(f"{dist_info(wheel)}/WHEEL").decode().splitlines() if "Tag:" in line]
    assert main == (clone / "cli" / "main.py").read_bytes()
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert tags == [f"Tag: py3-none-{platform}"]  # the library is no extension of one Python
    assert outside.wheel.name == f"amtl_export-{amtl_export.__version__}-py3-none-{platform}.whl"


def dist_info(wheel: zipfile.ZipFile) -> str:
    return next(name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL")).rpartition("/")[0]


def test_the_sdist_holds_real_files(outside: Any, clone: Path) -> None:
    with tarfile.open(outside.sdist) as sdist:
        members = {member.name.partition("/")[2]: member for member in sdist.getmembers()}
    assert python_files(clone) <= {name for name, member in members.items() if member.isfile()}
    native = {str(path.relative_to(clone)) for path in (clone / "amtl_export" / "native").iterdir()}
    assert native <= set(members)
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py"} <= set(members)
    assert not [name for name in members if name.endswith((".so", ".o")) or name.startswith(("tests/", "build/"))]


def test_the_wheel_of_the_sdist_holds_the_library_and_its_source(outside: Any, clone: Path) -> None:
    with zipfile.ZipFile(outside.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith(".py") and ".dist-info/" not in name}
    native = {str(path.relative_to(clone)) for path in (clone / "amtl_export" / "native").glob("*.*")}
    source = {name for name in native if not name.endswith(".py")}
    assert names == source | {"amtl_export/py.typed", "amtl_export/native/amtl_ort.so"}
