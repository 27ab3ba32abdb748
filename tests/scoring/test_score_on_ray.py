"""`score` on Ray: the same file as without it, whoever is killed."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from triton_server import free_ports

from amtl_export import ScoreConfig, export, freeze, score, train
from amtl_export.bundle.bundle import open_bundle
from amtl_export.cluster import check_shared, shared
from amtl_export.data.source import Files
from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.scoring.on_ray import _open, _order
from amtl_export.scoring.parts import PartWriter, Task, here
from amtl_export.scoring.scorer import Scorer
from amtl_export.training.config import TrainConfig

pytest.importorskip("ray", reason="Ray is not installed: the extra ray")

TOML = """
label = "act"
[[join]]
file = "side/cities.tsv"
key = "city"
columns = ["land"]
[[field]]
name = "uid"
kind = "categorical"
type = "int64"
[[field]]
name = "land"
kind = "categorical"
[[field]]
name = "price"
kind = "numeric"
"""
FILES = 12
ROWS = 900


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake") / "data"
    (folder / "side").mkdir(parents=True)
    (folder / "schema.toml").write_text(TOML)
    (folder / "side" / "cities.tsv").write_text("city\tland\nOslo\tNO\nRome\tIT\n")
    for number in range(FILES):
        lines = (
            f"{(i * 7 + number) % 50},{('Oslo', 'Rome')[i % 2]},{i % 13}.5,{(i + number) % 2}" for i in range(ROWS)
        )
        (folder / f"part-{number:02}.csv").write_text("\n".join(["uid,city,price,act", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    return export(freeze(train(tiny_train(data=str(data), epochs=1), folder / "run")), folder / "bundle").path


@pytest.fixture(scope="module")
def expected(data: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `score` writes without Ray."""
    out = tmp_path_factory.mktemp("lake") / "scores.parquet"
    score(bundle, data, out, ScoreConfig(keep=("city",)))
    return out.read_bytes()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two cores."""
    (port,) = free_ports(1)
    short = tempfile.mkdtemp(prefix="ray")  # names of sockets have 107 bytes at most
    words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    words += ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={short}"]
    address = f"127.0.0.1:{port}"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(300):
                log.seek(0)
                if "Ray runtime started" in log.read() or process.poll() is not None:
                    break
                time.sleep(0.2)
            log.seek(0)
            assert process.poll() is None, log.read()
            yield address
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            for left in family:
                if left.is_running():
                    left.kill()
            shutil.rmtree(short, ignore_errors=True)


def workers() -> list[psutil.Process]:
    """Processes that score, of clusters that were started here."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if process.name().startswith("ray::Worker") else []
        except psutil.NoSuchProcess:
            continue
    return found


def test_the_file_is_the_one_without_ray(
    data: Path, bundle: Path, expected: bytes, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: every row, in order, and the same bits; paths may be relative, and handlers of signals stay."""
    monkeypatch.chdir(data.parent)
    handler = signal.getsignal(signal.SIGTERM)
    notes: list[str] = []
    config = ScoreConfig(keep=("city",), batch=100, ray=cluster)
    report = score(bundle, data.name, tmp_path / "scores.parquet", config, note=notes.append)
    assert (tmp_path / "scores.parquet").read_bytes() == expected
    assert (report.rows, report.files, report.resumed) == (FILES * ROWS, FILES, 0)
    assert sorted(note.partition(":")[0] for note in notes) == [f"part-{n:02}.csv" for n in range(FILES)]
    assert signal.getsignal(signal.SIGTERM) == handler
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_killed_workers_lose_and_double_nothing(
    data: Path, bundle: Path, expected: bytes, cluster: str, tmp_path: Path
) -> None:
    killed: list[int] = []
    done = 0

    def kill(_: str) -> None:
        nonlocal done
        done += 1
        for process in {3: workers()[:1], 6: workers()}.get(done, []):
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    score(bundle, data, tmp_path / "scores.parquet", ScoreConfig(keep=("city",), ray=cluster, workers=2), note=kill)
    assert len(killed) >= 2
    assert done == FILES
    assert (tmp_path / "scores.parquet").read_bytes() == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_ends_goes_on_later(
    data: Path, bundle: Path, expected: bytes, cluster: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "scores.parquet"
    words = [sys.executable, "-m", "amtl_export", "score", str(bundle), "--data", str(data), "--out", str(out)]
    process = subprocess.Popen([*words, "--keep", "city", "--ray", cluster], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(" rows, " in line for line in iter(process.stderr.readline, ""))
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    assert not out.exists()
    for _ in range(300):
        if not workers():
            break
        time.sleep(0.1)
    assert workers() == []
    report = score(bundle, data, out, ScoreConfig(keep=("city",), ray=cluster))
    assert 1 <= report.resumed < FILES
    assert out.read_bytes() == expected


def test_an_error_of_a_worker_is_the_readers(data: Path, bundle: Path, cluster: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    shutil.copytree(data, rows)
    lines = (rows / "part-05.csv").read_text().splitlines()
    lines[3] = "x" + lines[3]
    (rows / "part-05.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"part-05\.csv, row 3") as raised:
        score(bundle, rows, tmp_path / "scores.parquet", ScoreConfig(ray=cluster))
    assert "field uid" in str(raised.value)
    assert not (tmp_path / "scores.parquet").exists()


def test_more_than_the_cluster_has_is_refused(data: Path, bundle: Path, cluster: str, tmp_path: Path) -> None:
    for config in (ScoreConfig(ray=cluster, workers=3), ScoreConfig(ray=cluster, threads=3)):
        with pytest.raises(InputError, match=r"(?s)too few cores.*found: room for [02] workers"):
            score(bundle, data, tmp_path / "scores.parquet", config)
    with pytest.raises(InputError, match="workers=2"):
        score(bundle, data, tmp_path / "scores.parquet", ScoreConfig(workers=2))


def test_a_cluster_that_is_not_there(data: Path, bundle: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense"):
        with pytest.raises(EnvironmentLacks, match=r"(?s)no Ray cluster can be reached.*ray='local'"):
            score(bundle, data, tmp_path / "scores.parquet", ScoreConfig(ray=address))


def test_without_ray_its_extra_is_named(data: Path, bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\nfrom amtl_export.cli.main import run\n"
        f"sys.exit(run(['score', {str(bundle)!r}, '--data', {str(data)!r}, '--out', 's.parquet', '--ray', 'local']))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "amtl-export[ray]" in done.stderr


def test_a_worker_of_another_machine_says_what_it_does_not_find(data: Path, bundle: Path, tmp_path: Path) -> None:
    """What it checks before it works: the folder it writes to, and that the bundle is the one that was opened."""
    scorer = Scorer.open(open_bundle(bundle))
    files = Files.at(data, scorer.bundle.run_schema)
    tasks = [Task(file, tmp_path / "0") for file in files.files]
    with shared(tmp_path) as mark:
        check_shared(mark)
        order = pickle.loads(pickle.dumps(_order(PartWriter(scorer, files, 10), tasks, 1, mark)))
    with pytest.raises(EnvironmentLacks, match=r"(?s)does not find the output folder.*all machines"):
        check_shared(mark)
    writer, pool = _open(order)
    with pool:
        assert writer.write(tasks[0], pool).rows == ROWS
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    (other / "SHA256SUMS").write_text("")
    for place in (other, tmp_path / "nothing"):
        with pytest.raises(EnvironmentLacks, match=r"(?s)does not find the bundle.*all machines"):
            _open(replace(order, bundle=place))


def test_two_that_write_a_part_leave_it_once(data: Path, bundle: Path, tmp_path: Path) -> None:
    scorer = Scorer.open(open_bundle(bundle))
    files = Files.at(data, scorer.bundle.run_schema)
    writer = PartWriter(scorer, files, 10)
    task = Task(files.files[0], tmp_path / "0")
    slow = writer._fresh  # of a worker that was thought dead
    (first,) = here(writer, [task], 1)
    stamp = {path: path.stat().st_mtime_ns for path in task.part.iterdir()}
    with ThreadPoolExecutor(1) as pool:
        assert slow(task, pool) == first.rows == ROWS
        assert writer.write(task, pool).rows == ROWS
    assert {path: path.stat().st_mtime_ns for path in task.part.iterdir()} == stamp
    assert list(tmp_path.iterdir()) == [task.part]
