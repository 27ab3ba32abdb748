"""Which files are scored, and how they are read: as the bundle's schema says, or by their suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amtl_export.data.folder import NOTHING_FITS, SUFFIXES, is_data
from amtl_export.data.schema import FilesSplit, RandomSplit, Schema
from amtl_export.data.source import Files
from amtl_export.data.text_files import PACKED
from amtl_export.errors import InputError
from amtl_export.files import real


def files_to_score(data: Path, schema: Schema, kept: tuple[str, ...], note: Callable[[str], None]) -> Files:
    """The files of a folder that fit the schema's pattern and format; if none does, those whose suffix is known.

    One file is of the format that its suffix says; of the schema's if that says nothing, as `.txt`, which may be any.

    Args:
        data: the folder, or the file.
        schema: of the bundle.
        kept: columns that are read beside those that scores need.
        note: is told if no file fits the schema.

    Raises:
        InputError: there are no such files, or of two formats; a side file cannot be used.
    """
    wanted = _without_labels(schema)
    by_suffix = wanted.model_copy(
        update={"files": schema.files.model_copy(update={"format": None, "pattern": None}), "split": RandomSplit()}
    )
    if not data.is_dir():
        return Files.at(data, by_suffix if _says_its_format(data) else wanted, kept, by_split=False)
    try:
        return Files.at(data, wanted, kept, by_split=False)
    except InputError as error:
        if error.what != NOTHING_FITS:
            raise
        try:
            found = Files.at(data, by_suffix, kept, by_split=False)
        except InputError as other:
            raise (error if other.what == NOTHING_FITS else other) from None
    note(f"no file in {data} is one that the schema's [files] names: {len(found.files)} are read by their suffix")
    return found


def refuse_read(out: Path, work: Path, data: Path, files: Files) -> None:
    """Refuse a result that would replace what is read or be read itself next time, and unfinished work that is read.

    Args:
        out: the result.
        work: folder of the unfinished work.
        data: the folder, or the file, that was asked for.
        files: that are read.

    Raises:
        InputError: it would.
    """
    folder = data if data.is_dir() else data.parent
    read = {real(file.path) for file in files.files} | {real(folder / join.file) for join in files.schema.joins}
    if real(out) in read:
        raise InputError("the output file is one of those that are read", where=out, fix="choose another file")
    inside = real(out).relative_to(real(data)) if real(out).is_relative_to(real(data)) else None
    if inside is not None and is_data(inside.as_posix(), files.schema):
        fix = "choose one outside of the data's folder"
        raise InputError("the next call would read the output file as data", where=out, fix=fix)
    if any(path.is_relative_to(real(work)) for path in read):
        fix = "remove it, and choose an output file outside of the data's folder"
        raise InputError("unfinished work is among the files that are read", where=work, fix=fix)


def _without_labels(schema: Schema) -> Schema:
    """What says which columns scores need: no label, filter, group, weight, or split but by files."""
    first = schema.fields[0].source_column.replace('"', '""')
    split = schema.split if isinstance(schema.split, FilesSplit) else RandomSplit()
    return schema.model_copy(
        update={"label": f'"{first}"', "filter": None, "group": None, "weight": None, "split": split}
    )


def _says_its_format(file: Path) -> bool:
    name = Path(file.name.lower())
    suffix = Path(name.stem).suffix if name.suffix in PACKED else name.suffix
    return suffix in SUFFIXES and suffix != ".txt"
