"""Ways to spoil a folder's files, whatever is in them."""

from __future__ import annotations

import os
import random
from pathlib import Path

from amtl_export.files import SUMS


def files_of(folder: Path, *suffixes: str) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != SUMS)
    return sorted(path for path in files if not suffixes or path.suffix in suffixes)


def chosen(folder: Path, draw: random.Random, *suffixes: str) -> Path | None:
    files = files_of(folder, *suffixes)
    return draw.choice(files) if files else None


def flip(folder: Path, draw: random.Random) -> bool:
    """Some bits of a file."""
    if (file := chosen(folder, draw)) is None or not (data := bytearray(file.read_bytes())):
        return False
    for _ in range(draw.choice((1, 1, 3, 20))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return True


def truncate(folder: Path, draw: random.Random) -> bool:
    """The end of a file, or all of it."""
    if (file := chosen(folder, draw)) is None or not (data := file.read_bytes()):
        return False
    file.write_bytes(data[: draw.choice((0, 1, draw.randrange(len(data)), len(data) - 1))])
    return True


def lengthen(folder: Path, draw: random.Random) -> bool:
    """More bytes at the end of a file."""
    if (file := chosen(folder, draw)) is None:
        return False
    file.write_bytes(file.read_bytes() + draw.choice((b"\0", b"\n{}", b"\xff" * 9000)))
    return True


def remove(folder: Path, draw: random.Random) -> bool:
    """A file."""
    if (file := chosen(folder, draw)) is None:
        return False
    file.unlink()
    return True


def swap(folder: Path, draw: random.Random) -> bool:
    """Two files, of one kind if there are."""
    first = chosen(folder, draw)
    others = [] if first is None else [f for f in files_of(folder) if f != first]
    if first is None or not others:
        return False
    second = draw.choice([f for f in others if f.suffix == first.suffix] or others)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return one != other


def link(folder: Path, draw: random.Random) -> bool:
    """A file becomes a link to what it was, elsewhere, or to a file of the machine."""
    if (file := chosen(folder, draw)) is None:
        return False
    elsewhere = folder.with_name(f"{folder.name}-{file.name}")
    file.rename(elsewhere)
    file.symlink_to(draw.choice((elsewhere, Path("/etc/passwd"), folder, Path("/nowhere"))))
    return True


def folder_for_file(folder: Path, draw: random.Random) -> bool:
    """A file becomes a folder, or a pipe that nobody writes to."""
    if (file := chosen(folder, draw)) is None:
        return False
    file.unlink()
    file.mkdir() if draw.random() < 0.5 else os.mkfifo(file)
    return True


def more_files(folder: Path, draw: random.Random) -> bool:
    """A file that nobody asked for."""
    name = draw.choice(("x", "vocab/x.parquet", "sitecustomize.py", "\x1b[31mred", "model.onnx.data2", "a\nb"))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    return True


def sums(folder: Path, draw: random.Random) -> bool:
    """SHA256SUMS itself."""
    file = folder / SUMS
    if not file.is_file():
        return False
    was = file.read_text()
    lines = was.splitlines(keepends=True)
    zeros = "0" * 64
    odd = ("", was + f"{zeros}  ../../etc/passwd\n", was + f"{zeros}  /etc/passwd\n", was.upper(), "\0", was + lines[0])
    file.write_text(draw.choice((*odd, "".join(lines[1:]), was.replace("  ", " "), was + f"{zeros}  \x1b[31m\n")))
    return True
