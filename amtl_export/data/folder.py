"""Which files of a folder are data, of which format, in which order, and what the names of their folders say."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from amtl_export.data.file_format import FileFormat
from amtl_export.data.schema import SPLITS, FilesSplit, Schema
from amtl_export.data.text_files import PACKED
from amtl_export.errors import InputError, os_errors
from amtl_export.files import real, refuse_bytes

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
    ".libsvm": "libsvm",
    ".svm": "libsvm",
    ".libffm": "libffm",
    ".ffm": "libffm",
}
#: What the error says of a folder without a file that fits.
NOTHING_FITS = "no data files in the folder"
_FOREIGN = {".bz2", ".xz", ".zip", ".lz4", ".7z"}
_ABOUT = ("README", "LICENSE", "CHANGELOG")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """One file of a source.

    Attributes:
        path: where it is.
        name: relative to the folder, with "/".
        format: csv, tsv, parquet, libsvm or libffm.
        keys: column → value, by sub-folders called `column=value`; None is missing.
    """

    path: Path
    name: str
    format: str
    keys: dict[str, str | None]


def data_files(place: Path, schema: Schema, *, by_split: bool = True) -> list[DataFile]:
    """The files of a folder in name order, under `rule = "files"` by split first; or the one file that `place` is.

    Args:
        place: the folder, or the file.
        schema: says which files are data.
        by_split: False asks no file to belong to a split, and keeps to the order of names.

    Raises:
        InputError: there is no such place or no file, they are of two formats, or one belongs to no split or to two.
    """
    if not place.exists():
        raise InputError("no such file or folder", where=place)
    folder = place if place.is_dir() else place.parent
    names = [place.name] if place.is_file() else _names(folder, schema)
    rule = schema.split
    if by_split and isinstance(rule, FilesSplit):
        names.sort(key=lambda name: split_of_file(rule, name))
    found = [DataFile(folder / name, name, format_of(folder / name, schema.files), _keys(name)) for name in names]
    for file in found:
        refuse_bytes(file.path)
    _refuse_two(folder, found)
    return found


def split_of_file(rule: FilesSplit, name: str) -> int:
    """Index into SPLITS of the split whose patterns match a file.

    Raises:
        InputError: no split has it, or several.
    """
    fitting = [index for index, patterns in enumerate(rule.patterns) if any(matches(name, p) for p in patterns)]
    if len(fitting) != 1:
        shown = {split: list(patterns) for split, patterns in zip(SPLITS, rule.patterns, strict=True)}
        raise InputError(
            f"a file belongs to {'two splits' if fitting else 'no split'}",
            where=name,
            allowed=f"one of {shown}",
            fix="correct the patterns of [split] in schema.toml, or name the files to read by [files] pattern",
        )
    return fitting[0]


def matches(name: str, pattern: str) -> bool:
    """Whether a relative path with "/" fits a pattern of `*`, `?`, `[…]` and `**`."""
    return _regex(pattern).fullmatch(name) is not None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./"))
    words = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    for index, piece in enumerate(pieces):
        is_set = len(piece) > 2 and piece[0] == "[" and piece[-1] == "]"
        pieces[index] = words.get(piece) or (piece.replace("[!", "[^", 1) if is_set else re.escape(piece))
    try:
        return re.compile("".join(pieces), re.DOTALL)
    except re.error:
        raise InputError("a pattern cannot be read", found=pattern, allowed="* ? [abc] and **") from None


def is_data(name: str, schema: Schema) -> bool:
    """Whether a file of a folder, called so there with "/", would be read as data."""
    partitions = all(map(_key, name.split("/")[:-1]))
    return _fits_pattern(name, _patterns(schema)) or (
        not schema.files.pattern and partitions and _fits_suffix(name, _suffixes(schema))
    )


def _patterns(schema: Schema) -> list[str]:
    if schema.files.pattern:
        return [schema.files.pattern]
    rule = schema.split
    return [pattern for split in rule.patterns for pattern in split] if isinstance(rule, FilesSplit) else []


def _suffixes(schema: Schema) -> set[str]:
    wanted = schema.files.format
    suffixes = {suffix for suffix, kind in SUFFIXES.items() if wanted in (None, kind)}
    return suffixes | ({".txt"} if wanted in ("libsvm", "libffm") else set())


def _fits_pattern(name: str, patterns: Iterable[str]) -> bool:
    return any(matches(name, pattern) and _is_named(name, pattern) for pattern in patterns)


def _fits_suffix(name: str, suffixes: set[str]) -> bool:
    return _suffix(name) in suffixes and _is_named(name, "")


def _names(folder: Path, schema: Schema) -> list[str]:
    patterns, suffixes = _patterns(schema), _suffixes(schema)
    with os_errors("listing the data"):
        everything = list(_walk(folder, folder)) if patterns else []
        plain = [] if schema.files.pattern else list(_walk(folder, folder, partitions=True))
    named = [name for name in everything if _fits_pattern(name, patterns)]
    plain = [name for name in plain if _fits_suffix(name, suffixes)]
    found = sorted({*named, *plain}, key=lambda name: PurePosixPath(name).parts)
    beside = {real(folder / join.file) for join in schema.joins}
    found = [name for name in found if name != "schema.toml" and real(folder / name) not in beside]
    if not found:
        raise InputError(
            NOTHING_FITS,
            where=folder,
            found=_below(folder, suffixes),
            allowed=" ".join(patterns) or " ".join(sorted(suffixes)),
            fix='check the folder, or [files] pattern in schema.toml ("**/*.csv" reads sub-folders)',
        )
    return found


def _walk(folder: Path, top: Path, partitions: bool = False) -> Iterable[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_file():
            yield path.relative_to(top).as_posix()
        elif entry.is_dir(follow_symlinks=partitions) and (not partitions or _key(entry.name)):
            yield from _walk(path, top, partitions)
        elif not entry.is_dir():  # a link to nowhere, a pipe: named like data, it is refused where it is opened
            yield path.relative_to(top).as_posix()


def _is_named(name: str, pattern: str) -> bool:
    """Hidden names, names that begin with "_" and pages about the data are data only where a pattern spells them."""
    spelt = pattern.split("/")
    for part in name.split("/"):
        if part[0] in "._" and not any(word[:1] == part[0] for word in spelt):
            return False
    last = name.split("/")[-1].upper()
    about = next((word for word in _ABOUT if re.match(rf"{word}(\W|$)", last)), None)
    return about is None or spelt[-1].upper().startswith(about)


def _suffix(name: str) -> str:
    """The suffix of a name, less that of its packing."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in PACKED else path.suffix


def format_of(file: Path, files: FileFormat) -> str:
    """What a file is written in, as the schema says or by its suffix.

    Raises:
        InputError: the suffix says nothing that is read.
    """
    if file.suffix.lower() in _FOREIGN:
        raise InputError(
            "files packed like this are not read",
            where=file,
            allowed=".gz .zst",
            fix="unpack the file, or pack it with gzip",
        )
    kind = files.format or SUFFIXES.get(_suffix(file.name))
    if kind is None:
        raise InputError(
            "unknown file format", where=file, found=file.suffix, fix='[files] format = "csv" in schema.toml'
        )
    return kind


def _keys(name: str) -> dict[str, str | None]:
    pairs = [pair for part in name.split("/")[:-1] if (pair := _key(part))]
    return {key: None if value in ("", _NO_VALUE) else value for key, value in pairs}


def _key(folder: str) -> tuple[str, str] | None:
    key, equals, value = folder.partition("=")
    return (unquote(key), unquote(value)) if key and equals and key[0] not in "._" else None


def _refuse_two(folder: Path, found: list[DataFile]) -> None:
    formats: dict[str, str] = {}
    unpacked: dict[str, str] = {}
    for file in found:
        formats.setdefault(file.format, file.name)
        path = PurePosixPath(file.name)
        plain = str(path.with_suffix("")) if path.suffix.lower() in PACKED else file.name
        if unpacked.setdefault(plain, file.name) != file.name:
            raise InputError(
                "a file is there twice, packed and unpacked",
                where=folder,
                found=f"{unpacked[plain]} and {file.name}",
                fix="remove one, or say which by [files] pattern in schema.toml",
            )
    if len(formats) > 1:
        raise InputError(
            "the folder holds files of several formats",
            where=folder,
            found=", ".join(f"{kind} ({name})" for kind, name in formats.items()),
            allowed="files of one format",
            fix=f'say which: [files] format = "{next(iter(formats))}", or pattern = "…", in schema.toml',
        )


def _below(folder: Path, suffixes: set[str]) -> str | None:
    """What sub-folders hold, for the message."""
    with os_errors("listing the data"):
        deeper = [name for name in _walk(folder, folder) if "/" in name and _suffix(name) in suffixes]
    return f"{len(deeper)} in sub-folders, such as {deeper[0]}" if deeper else None
