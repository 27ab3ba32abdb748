"""`score`: files of raw rows through a bundle into one Parquet file, streamed, and resumable by file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.data.source import Files
from amtl_export.errors import InputError, os_errors
from amtl_export.files import (
    SUMS,
    TOOL,
    atomic_folder,
    producer,
    read_json,
    refuse_inside,
    sha256,
    sync,
    whole_file,
    write_json,
)
from amtl_export.locks import locked
from amtl_export.scoring.inputs import files_to_score, refuse_read
from amtl_export.scoring.on_ray import on_ray
from amtl_export.scoring.parts import PartWriter, Scored, Task, chunks, discard, here, is_whole
from amtl_export.scoring.scorer import FILE_COLUMN, ROW_COLUMN, Scorer
from amtl_export.stages import stage

#: Says in a Parquet file that `score` made it.
_MARK = {"amtl.tool": TOOL}
_PLAN = "score.json"

Note = Callable[[str], None]


@dataclass(frozen=True)
class ScoreConfig:
    """How files are scored.

    Attributes:
        outputs: of the bundle that are written; all if none is named.
        keep: columns of the data that are written beside them.
        batch: rows of a call of the graph.
        threads: batches that are answered at a time, each on one thread; None takes one a core. On Ray, of a worker;
            None takes one.
        ray: None scores here; else a Ray cluster's address, as `ray.init` takes it, or `local`, which starts one here.
        workers: processes on Ray, each with a file at a time; None takes as many as the cluster has cores for.
    """

    outputs: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    batch: int = 4096
    threads: int | None = None
    ray: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class ScoreReport:
    """What was scored.

    Attributes:
        out: the file.
        rows: in it, in the order of the files and of their rows.
        files: that they came from.
        resumed: of these, files that an earlier call had scored.
        outputs: columns of scores.
        seconds: that this call took.
        rows_per_second: that this call scored.
    """

    out: str
    rows: int
    files: int
    resumed: int
    outputs: tuple[str, ...]
    seconds: float
    rows_per_second: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def score(
    bundle: Path | str,
    data: Path | str,
    out: Path | str,
    config: ScoreConfig | None = None,
    *,
    overwrite: bool = False,
    note: Note = lambda _: None,
) -> ScoreReport:
    """Score files of raw rows: columns `file`, `row` (from 0 in its file), those that are kept, and the outputs.

    Values are read and encoded as training read them, by the bundle's own schema; labels, filter, groups and weights
    are not asked for. Memory is bounded by a chunk of rows. What is done stands in `OUT.partial`, a part for each file,
    so the same call after an interruption goes on with the next file, and the result is the same.

    On Ray, files are scored by workers, each of which answers as here. They need the same paths and installation.

    Args:
        bundle: of a run.
        data: a file, or a folder of files as the schema's `[files]` names them, or, if there are none, by suffix.
        out: a Parquet file; appears when all rows are scored.
        config: what is written, and how many threads answer.
        overwrite: replace a file that `score` made, and discard unfinished work of other settings.
        note: is told how it goes.

    Raises:
        InputError: not a bundle of a run, or one that takes fields once per request; a value or a column cannot be
            used; `out` exists, or is read; unfinished work of other settings is in the way; another process is at it;
            workers not on Ray.
        EnvironmentLacks: ONNX Runtime or the native library is missing; no disk space; no permission; Ray is missing or
            cannot be reached, a worker lacks something, or workers die again and again.
    """
    started, config, out = time.perf_counter(), config or ScoreConfig(), Path(out)
    opened = open_bundle(bundle)
    scorer = Scorer.open(opened, config.outputs)
    _check_names(config, scorer)
    files = files_to_score(Path(data), opened.run_schema, config.keep, note)
    work = out.absolute().with_name(out.name + ".partial")  # Polars knows "~"
    refuse_read(out, work, Path(data), files)
    refuse_inside(out)
    _check_target(out, overwrite)
    for data_file in files.files:  # a column that is not there is told before anything is written
        files.check(data_file)
    with os_errors("writing scores", out), locked(work):
        _claim(work, _plan(opened, files, config), overwrite)
        parts = [work / f"{number:06}" for number in range(len(files.files))]
        tasks = [Task(*pair) for pair in zip(files.files, parts, strict=True) if not is_whole(pair[1])]
        for task in tasks:  # what is there is damaged
            discard(task.part)
        scored = 0
        with closing(_finished(PartWriter(scorer, files, config.batch), tasks, config)) as finished:
            for file in finished:
                scored += file.rows
                note(f"{file.name}: {file.rows:,} rows, {file.rows / file.seconds:,.0f} a second")
        stage("putting the scores into one file")
        whole = work / "all"
        written = [chunk for part in parts for chunk in chunks(part)]
        pl.scan_parquet(written, glob=False).sink_parquet(whole, metadata=_MARK)
        rows = pl.scan_parquet(whole, glob=False).select(pl.len()).collect().item()
        _publish(whole, out, overwrite)
        shutil.rmtree(work)
    seconds = time.perf_counter() - started
    return ScoreReport(str(out), rows, len(parts), len(parts) - len(tasks), scorer.outputs, seconds, scored / seconds)


def _finished(writer: PartWriter, tasks: Sequence[Task], config: ScoreConfig) -> Generator[Scored]:
    if config.ray is None and config.workers is not None:
        raise InputError("workers are of a Ray cluster", found=f"workers={config.workers}", fix="say ray='local' too")
    if config.ray is None:
        yield from here(writer, tasks, config.threads)
    else:
        yield from on_ray(writer, tasks, config.threads, config.ray, config.workers)


def _check_names(config: ScoreConfig, scorer: Scorer) -> None:
    """Refuse two columns of one name in the result."""
    if both := sorted({FILE_COLUMN, ROW_COLUMN, *scorer.outputs} & set(config.keep)):
        raise InputError("score: a column is called as one of the result is", found=", ".join(both), fix="leave it out")
    named = (*config.keep, *config.outputs)
    if twice := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        raise InputError("score: a column is named twice", found=", ".join(twice), fix="name it once")


def _plan(bundle: Bundle, files: Files, config: ScoreConfig) -> dict[str, Any]:
    """What an unfinished work was asked to do: the bundle, the files as they are, the columns."""
    file = bundle.path / SUMS
    with os_errors("reading the bundle's checksums", file):
        sums = sha256(file)
    listed = [[file.name, (stat := file.path.stat()).st_size, stat.st_mtime_ns] for file in files.files]
    return {
        "producer": producer(),
        "bundle": sums,
        "files": listed,
        "outputs": list(config.outputs),
        "keep": list(config.keep),
        "types": {name: str(kind) for name, kind in sorted(files.types.items()) if name in config.keep},
    }


def _claim(work: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Make the working folder, or take over one of the same plan, less the parts of files that are others now."""
    if work.exists():
        earlier = _earlier(work / _PLAN)
        if earlier is not None and {**earlier, "files": None} == {**plan, "files": None}:
            for number, file in enumerate(earlier["files"]):
                if plan["files"][number : number + 1] != [file]:
                    discard(work / f"{number:06}")
            with whole_file(work / _PLAN) as draft:
                write_json(draft, plan)
            return
        if earlier is None or not overwrite:
            differs = "no plan" if earlier is None else ", ".join(key for key in plan if earlier.get(key) != plan[key])
            raise InputError(
                "unfinished work of other settings is in the way",
                where=work,
                found=differs,
                fix="repeat it with its settings to go on, or say overwrite=True to discard it"
                if earlier is not None
                else "remove it yourself, or choose another file",
            )
        shutil.rmtree(work)
    with atomic_folder(work) as folder:  # it is never there without its plan
        write_json(folder / _PLAN, plan)


def _earlier(file: Path) -> dict[str, Any] | None:
    """The plan of unfinished work, if it is one."""
    values = read_json(file) if file.is_file() else None
    return values if isinstance(values, dict) and isinstance(values.get("files"), list) else None


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise InputError("the output file exists", where=out, fix="choose another file, or say overwrite=True")
    try:
        ours = out.is_file() and pl.read_parquet_metadata(out.absolute()).get("amtl.tool") == TOOL
    except pl.exceptions.PolarsError:
        ours = False
    if not ours:
        raise InputError(
            f"the output file exists and was not made by {TOOL}, so it is not replaced",
            where=out,
            fix="choose another file, or remove it yourself",
        )


def _publish(whole: Path, out: Path, overwrite: bool) -> None:
    """Move the finished file to its place, where nothing is, or one that may be replaced."""
    sync(whole)
    _check_target(out, overwrite)
    if out.exists():
        whole.replace(out)
        return
    try:
        os.link(whole, out)
    except FileExistsError:
        raise InputError("the output file appeared meanwhile", where=out, fix="choose another file") from None
