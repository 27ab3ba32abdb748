"""Where a command writes, looked at before it works: beside what it reads, and each result to a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Options that name what is written, and those that name what is read though they are no paths.
_WRITTEN = ("json", "out", "plot")
_READ = ("data", "source")

#: Commands whose output folder has no checksums; other results may lie in it.
_OPEN = ("train", "experiment")


def check_outputs(command: str | None, given: Mapping[str, Any]) -> None:
    """Refuse outputs that would spoil a folder of ours, each other, or what the command reads, or cannot be written.

    Args:
        command: its name.
        given: the command's parameters; `json` is where the result goes.

    Raises:
        EnvironmentLacks: a plot is wanted, and matplotlib is missing.
        InputError: an output lies in a folder that this tool made or makes, two paths are one, or a file
            cannot be there.
    """
    from amtl_export.errors import InputError
    from amtl_export.files import real, refuse_bytes, refuse_inside

    for path in (*(path for _, path in _read(given)), *(Path(given[name]) for name in _WRITTEN if given.get(name))):
        refuse_bytes(path.absolute())
    seen = {real(path): name for name, path in _read(given)}
    for name in _WRITTEN:
        if not given.get(name) or str(given[name]) == "-":
            continue
        path = Path(given[name])
        refuse_inside(path)
        if (other := seen.get(real(path))) and (other in _WRITTEN or name != "out"):
            raise InputError(
                "two paths of the command are one",
                where=path,
                found=f"--{name} and {other if other not in _WRITTEN else f'--{other}'}",
                fix="choose another file",
            )
        inside = name != "out" and bool(given.get("out")) and real(given["out"]) in real(path).parents
        if inside and command not in _OPEN:
            raise InputError(
                "an output lies in the folder that the command makes",
                where=path,
                found=f"--out {given['out']}",
                fix="choose a path outside of it",
            )
        if file := next((parent for parent in path.parents if parent.is_file()), None):
            raise InputError(
                "a file stands where a folder is needed",
                where=file,
                found=f"--{name} {path}",
                fix="choose another path, or move the file",
            )
        if name != "out" and not inside:
            _check_file(name, path)
        seen[real(path)] = name


def _check_file(name: str, path: Path) -> None:
    """Before the command works for minutes on what it cannot write."""
    from amtl_export.errors import InputError

    if path.is_dir():
        raise InputError("an output file is a folder", where=path, found=f"--{name}", fix="choose a file")
    if not path.absolute().parent.is_dir():
        raise InputError(
            "the folder of an output is not there", where=path.parent, found=f"--{name}", fix="make it first"
        )
    if name == "plot":
        from amtl_export.report.plots import check_plot

        check_plot(path)


def _read(given: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Parameter and path of all that is read; `my_model.py:build` is read from its file."""
    for name, value in given.items():
        if name in _WRITTEN:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path):
                yield name, one
            elif isinstance(one, str) and name in _READ:
                yield name, Path(one)
                if file := one.rpartition(":")[0]:
                    yield name, Path(file)
