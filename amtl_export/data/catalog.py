"""What `data` and `path` mean: a named source, or somebody's own files."""

from __future__ import annotations

from pathlib import Path

from amtl_export.data.named import NAMED, synthetic
from amtl_export.data.schema_problems import nearest
from amtl_export.data.source import Source, folder_source
from amtl_export.errors import InputError


def is_named(data: Path | str) -> bool:
    """Whether `data` is the name of a source, even if a folder is called the same."""
    name = str(data).partition(":")[0]
    return name in NAMED or name == "synthetic"


def open_source(data: Path | str, path: Path | str | None = None) -> Source:
    """Find the source that `data` and `path` mean. A known name is the named source; `./ml-1m` is a folder.

    Args:
        data: a named source, or a folder or file with a `schema.toml` beside it.
        path: the folder with a named source's files.

    Raises:
        InputError: no such source, folder or file.
    """
    name, _, options = str(data).partition(":")
    if name == "synthetic":
        return synthetic.source(options)
    if name in NAMED:
        if path is None:
            own = f"; the folder of this name is data='./{name}'" if Path(name).exists() else ""
            fix = f"path=FOLDER with the files as published{own}"
            raise InputError(f"the source {name} needs path=FOLDER", fix=fix)
        if not Path(path).is_dir():
            raise InputError("no such folder", where=path, fix=f"path=FOLDER with the files of {name}")
        return NAMED[name](Path(path))
    if path is not None:
        raise InputError(f"path={path} goes with a named source", found=data, allowed=", ".join(NAMED))
    place = Path(data)
    if not place.exists():
        near = nearest(str(data), [*NAMED, "synthetic"])
        raise InputError(
            "no such data",
            found=data,
            allowed=f"a folder or file with a schema.toml, or {', '.join(NAMED)}, synthetic",
            fix=f"did you mean {near}?" if near else None,
        )
    return folder_source(place)
