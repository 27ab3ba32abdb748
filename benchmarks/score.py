"""Rows a second and memory of `score`: rows of thirty fields in Parquet files, here and on Ray with two workers.

    python benchmarks/score.py --out benchmarks/results

Beside it stand what a user would write: a loop of Polars and ONNX Runtime over the files, and the same function in Ray
Data with two workers (`pip install pyarrow`). They map values to ids by the bundle's vocabularies and run its graph;
what they do not do is check rows, go on after an interruption, and, the loop, bound its memory by less than a file.

Subjects take turns, each in a process of its own, its start included; rows a second are medians of `--runs`. Then each
scores `--full` rows once, for memory: the peak of the sum over all its processes, Ray's own among them, shared pages
counted by share. Last, a worker is killed, and a run is; both have to end with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import psutil

from amtl_export.bench.machine import describe_machine, today
from amtl_export.errors import EnvironmentLacks, ValidationFailed
from amtl_export.files import read_json, write_json

_FILE_ROWS = 125_000
_WHOLE = {f"id_{i}": 20 * 4**i for i in range(8)} | {f"kind_{i}": 10 * (i + 1) for i in range(12)}
_TEXTS = {f"text_{i}": 50 * 10**i for i in range(4)}
_NUMBERS = [f"rate_{i}" for i in range(6)]
_BATCH = 4096
_MIB = 1 << 20
_ATOL = 1e-4


def schema() -> str:
    """schema.toml of the rows."""
    fields = [f'[[field]]\nname = "{name}"\nkind = "categorical"\ntype = "int64"\n' for name in _WHOLE]
    fields += [f'[[field]]\nname = "{name}"\nkind = "categorical"\n' for name in _TEXTS]
    fields += [f'[[field]]\nname = "{name}"\nkind = "numeric"\n' for name in _NUMBERS]
    return 'label = "click"\n' + "".join(fields)


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows: whole numbers and texts by a Zipf law, and numbers."""
    rng = np.random.default_rng(seed)
    columns = {name: pl.Series(rng.zipf(1.2, count) % size) for name, size in _WHOLE.items()}
    for name, size in _TEXTS.items():
        columns[name] = pl.select(pl.format("value_{}", pl.Series(rng.zipf(1.2, count) % size))).to_series()
    columns |= {name: pl.Series(rng.gamma(2, 3, count).astype(np.float32)) for name in _NUMBERS}
    return pl.DataFrame(columns | {"click": pl.Series(rng.integers(0, 2, count))})


def write_rows(folder: Path, count: int) -> Path:
    """Files of at most 125,000 rows, eight at least."""
    folder.mkdir()
    size = min(_FILE_ROWS, -(-count // 8))
    for number, start in enumerate(range(0, count, size)):
        rows(min(size, count - start), number).write_parquet(folder / f"part-{number:04}.parquet")
    return folder


def make_bundle(folder: Path, count: int) -> Path:
    """A trained model of these rows, with standard operators alone, so that any session runs it."""
    data = write_rows(folder / "training", count)
    (data / "schema.toml").write_text(schema(), encoding="utf-8")
    run, bundle = folder / "run", folder / "bundle"
    command("train", "--data", data, "--method", "fbe", "--epochs", "1", "--out", run)
    command("export", run, "--out", bundle, "--target", "portable")
    return bundle


def words(*arguments: object) -> list[str]:
    """One of our commands."""
    return [sys.executable, "-m", "amtl_export", *map(str, arguments), "-q"]


def command(*arguments: object) -> None:
    """Run one of our commands."""
    subprocess.run(words(*arguments), check=True)


class Plain:
    """What a user writes: values to ids by Polars, ids to scores by ONNX Runtime."""

    def __init__(self, bundle: str, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        folder = Path(bundle)
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.known = {}
        for spec in read_json(folder / "signature.json")["inputs"]:
            self.known[spec["name"]] = [column["field"] for column in spec["columns"]]
        self.ids = {
            name: pl.read_parquet(folder / "vocab" / f"{name}.parquet").drop_nulls("value")
            for name in self.known["ids"]
        }

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The outputs for rows."""
        ids = frame.select(
            pl.col(name).replace_strict(known["value"], known["id"], default=0, return_dtype=pl.Int64)
            for name, known in self.ids.items()
        ).to_numpy(order="c")
        numbers = frame.select(self.known["numeric"]).to_numpy(order="c")
        names = [output.name for output in self.session.get_outputs()]
        found = []
        for start in range(0, len(frame), _BATCH):
            feed = {"ids": ids[start : start + _BATCH], "numeric": numbers[start : start + _BATCH]}
            found.append(self.session.run(names, feed))
        return pl.DataFrame({name: np.concatenate([part[i] for part in found]) for i, name in enumerate(names)})


def loop(bundle: Path, data: Path, out: Path) -> None:
    """File by file, in this process."""
    plain = Plain(str(bundle))
    out.mkdir()
    for file in sorted(data.glob("*.parquet")):
        plain(pl.read_parquet(file)).write_parquet(out / file.name)


class Batches(Plain):
    """The same for Ray Data's tables."""

    def __init__(self, bundle: str) -> None:
        super().__init__(bundle, threads=1)

    def __call__(self, table: Any) -> Any:
        """The outputs for a table of pyarrow."""
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return super().__call__(frame).to_arrow()


def ray_data(bundle: Path, data: Path, out: Path) -> None:
    """The files as a dataset, in order, with two actors, who leave a core of two for reading and writing."""
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    files = ray.data.read_parquet([str(file) for file in sorted(data.glob("*.parquet"))])
    scored = files.map_batches(
        Batches,
        fn_constructor_args=[str(bundle)],
        batch_format="pyarrow",
        batch_size=_FILE_ROWS,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    scored.write_parquet(str(out))
    ray.shutdown()


SUBJECTS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    "score": lambda bundle, data, out: words("score", bundle, "--data", data, "--out", out),
    "score on ray": lambda bundle, data, out: words(
        "score", bundle, "--data", data, "--out", out, "--ray", "local", "--workers", 2
    ),
    "polars loop": lambda *paths: [sys.executable, __file__, "--measure", "loop", *map(str, paths)],
    "ray data": lambda *paths: [sys.executable, __file__, "--measure", "ray_data", *map(str, paths)],
}


def peaks(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Until a process ends: the most memory of all its family together, and of the largest of them."""
    found = {"peak_bytes": 0, "largest_process_bytes": 0}

    def sample() -> None:
        sizes = [(0, 0)]
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for own in family:
            try:
                memory = own.memory_full_info()
                sizes.append((memory.pss, memory.rss))
            except psutil.Error:
                continue
        found["peak_bytes"] = max(found["peak_bytes"], sum(pss for pss, _ in sizes))
        found["largest_process_bytes"] = max(found["largest_process_bytes"], max(rss for _, rss in sizes))

    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            sample()

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    done.set()
    watcher.join()
    return found


def measure(subject: str, bundle: Path, data: Path, out: Path) -> dict[str, Any]:
    """One run of a subject: seconds, and memory."""
    remove(out)
    begun = time.perf_counter()
    process = subprocess.Popen(SUBJECTS[subject](bundle, data, out), stdout=subprocess.DEVNULL)
    found = peaks(process)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise ValidationFailed(f"{subject} failed", found=f"exit code {process.returncode}")
    return {"seconds": seconds, **found}


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def logits(out: Path) -> np.ndarray[Any, Any]:
    """Of a file, or of a folder of files, in order."""
    files = [out] if out.is_file() else sorted(out.glob("*.parquet"))
    return pl.read_parquet(files, columns=["logit"])["logit"].to_numpy()


def differences(outs: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """The greatest difference of a logit from `score`'s, row by row; of Ray Data, whose files may stand in another
    order than the rows that they are of, as sorted where they do.
    """
    expected, found = logits(outs["score"]), {}
    for subject, out in outs.items():
        scores = logits(out)
        if scores.shape != expected.shape:
            raise ValidationFailed(f"{subject} lost rows", found=len(scores), allowed=len(expected))
        apart = float(np.abs(scores - expected).max())
        in_order = apart < _ATOL
        if not in_order and subject == "ray data":
            apart = float(np.abs(np.sort(scores) - np.sort(expected)).max())
        if apart >= _ATOL:
            raise ValidationFailed(f"{subject} gives other logits", found=apart, allowed=_ATOL)
        found[subject] = {"max_abs_logit_difference": apart, "in_order": in_order}
    return found


def compared(subjects: Sequence[str], bundle: Path, data: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Subjects in turns."""
    count = int(pl.scan_parquet(data / "*.parquet").select(pl.len()).collect().item())
    outs = {subject: folder / f"{subject.replace(' ', '-')}.parquet" for subject in subjects}
    taken: dict[str, list[dict[str, Any]]] = {subject: [] for subject in subjects}
    for _ in range(runs):
        for subject in subjects:
            taken[subject].append(measure(subject, bundle, data, outs[subject]))
    differs = differences(outs)
    cases = {}
    for subject, measured in taken.items():
        seconds = statistics.median(run["seconds"] for run in measured)
        cases[subject] = {
            "rows_per_second": count / seconds,
            "seconds": [run["seconds"] for run in measured],
            "peak_bytes": max(run["peak_bytes"] for run in measured),
            "largest_process_bytes": max(run["largest_process_bytes"] for run in measured),
            **differs[subject],
        }
        click.echo(
            f"{count:,} rows, {subject}: {count / seconds:,.0f} rows a second, "
            f"{cases[subject]['peak_bytes'] / _MIB:,.0f} MiB, the largest process "
            f"{cases[subject]['largest_process_bytes'] / _MIB:,.0f}; logits differ by "
            f"{differs[subject]['max_abs_logit_difference']:.1e}, in order: {differs[subject]['in_order']}"
        )
    for out in outs.values():
        remove(out)
    return {"rows": count, "files": len(list(data.glob("*.parquet"))), "runs": runs, "subjects": cases}


def digest(out: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(out.read_bytes()).hexdigest()


def killed(subjects: Sequence[str], bundle: Path, data: Path, folder: Path) -> dict[str, Any]:
    """What becomes of the file when a worker is killed, and when the run is and is given again: it has to be equal."""
    expected, out = folder / "expected.parquet", folder / "killed.parquet"
    subprocess.run(SUBJECTS["score"](bundle, data, expected), check=True)
    result: dict[str, Any] = {}
    cases = [("worker", "score on ray"), ("run", "score on ray"), ("run", "score")]
    for case, subject in (own for own in cases if own[1] in subjects):
        process = subprocess.Popen(SUBJECTS[subject](bundle, data, out), start_new_session=True)
        hit(process, out, worker=case == "worker")
        resumed = 0
        if case == "run":
            resumed = parts(out)
            subprocess.run(SUBJECTS[subject](bundle, data, out), check=True)
        equal = process.returncode == (0 if case == "worker" else -signal.SIGKILL) and digest(out) == digest(expected)
        result[f"{case} of {subject}"] = {"equal": equal, "files_done_before": resumed}
        click.echo(f"killed a {case} of {subject}: {'the same bytes' if equal else 'OTHER BYTES'}")
        if not equal:
            raise ValidationFailed(f"a killed {case} of {subject} changes the scores", found=process.returncode)
        remove(out)
    remove(expected)
    return result


def parts(out: Path) -> int:
    """Files that are done of unfinished work."""
    return len(list(out.with_name(out.name + ".partial").glob("[0-9]" * 6)))


def hit(process: subprocess.Popen[bytes], out: Path, *, worker: bool) -> None:
    """Kill a process, or one of its workers, when two files are done, and wait for the process."""
    while parts(out) < 2:
        if process.poll() is not None:
            raise ValidationFailed("a run ended before it could be killed", found=process.returncode)
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    victims = [own for own in children if worker and own.name().startswith("ray::Worker")]
    os.kill(victims[0].pid if worker else process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=60)


def check(subjects: Sequence[str]) -> None:
    """Refuse to leave a subject out in silence."""
    if unknown := [subject for subject in subjects if subject not in SUBJECTS]:
        raise EnvironmentLacks("no such subjects", found=", ".join(unknown), allowed=", ".join(SUBJECTS))
    if "ray data" in subjects:
        try:
            import ray.data
        except ImportError as error:
            raise EnvironmentLacks(
                "Ray Data cannot be imported", found=error, fix="pip install pyarrow, or leave it out by --subjects"
            ) from None
        assert ray.data


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--measure", "what", hidden=True, type=click.Choice(["loop", "ray_data"]))
@click.option("--rows", "count", default=1_000_000, show_default=True, help="Of the comparison.")
@click.option("--runs", default=5, show_default=True, help="Of each subject, in turns.")
@click.option("--full", default=10_000_000, show_default=True, help="Rows that each subject scores once; 0 is none.")
@click.option("--subjects", default=",".join(SUBJECTS), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(
    paths: tuple[Path, ...],
    what: str | None,
    count: int,
    runs: int,
    full: int,
    subjects: str,
    out: Path,
    machine: str,
) -> None:
    """Measure scoring, here and on Ray."""
    if what:
        {"loop": loop, "ray_data": ray_data}[what](*paths)
        return
    named = subjects.split(",")
    check(named)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = make_bundle(folder, min(count, 200_000))
        data = write_rows(folder / "rows", count)
        report: dict[str, Any] = {"date": today(), "machine": describe_machine(), "fields": 30, "batch": _BATCH}
        report["compared"] = compared(named, bundle, data, folder, runs)
        report["killed"] = killed(named, bundle, data, folder)
        if full:
            shutil.rmtree(data)
            report["full"] = compared(named, bundle, write_rows(data, full), folder, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{today()}-score-{machine}.json", report)
    click.echo(json.dumps(report["killed"]))


if __name__ == "__main__":
    main()
