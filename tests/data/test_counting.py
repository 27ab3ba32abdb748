"""Values that are counted on disk give the vocabularies that memory gives."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from data_places import place
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data import counting as counting_module
from amtl_export.data import stream as stream_module
from amtl_export.data.catalog import open_source
from amtl_export.data.counting import ValueCounter, keep_within
from amtl_export.data.describe import describe
from amtl_export.data.encode import Encoded, encode
from amtl_export.data.spill import Spill
from amtl_export.errors import EnvironmentLacks, InputError

SCHEMA = """
label = "y"
[split]
rule = "random"
[[field]]
name = "item"
kind = "categorical"
min_count = 3
unknown = "item number 7, of many"
[[field]]
name = "last"
kind = "categorical"
vocabulary = "item"
[[field]]
name = "liked"
kind = "multi-valued"
vocabulary = "item"
max_length = 2
[[field]]
name = "seen"
kind = "sequence"
of = "last"
[[field]]
name = "user"
kind = "categorical"
type = "int64"
min_count = 2
[[field]]
name = "tags"
kind = "multi-valued"
type = "int64"
min_count = 1
"""


@pytest.fixture(autouse=True, scope="module")
def few_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting_module, "_PARTS", 5)
        yield


def write_rows(folder: Path, rows: int = 2000) -> None:
    """Values of which many are rare and some are missing, in an order of no meaning."""
    rng = np.random.default_rng(0)

    def drawn(count: int, form: str) -> list[str | None]:
        numbers = rng.zipf(1.4, count) % 5000
        return [None if n % 11 == 5 else form.format(n) for n in numbers.tolist()]

    def lists(count: int, form: str) -> list[str]:
        return ["|".join(text or "" for text in drawn(int(rng.integers(0, 4)), form)) for _ in range(count)]

    text, number = "item number {}, of many", "{}"
    columns = {"item": drawn(rows, text), "last": drawn(rows, text), "liked": lists(rows, text)}
    columns |= {"seen": lists(rows, text), "user": drawn(rows, number), "tags": lists(rows, number)}
    pl.DataFrame(columns | {"y": rng.integers(0, 2, rows)}).write_csv(folder / "a.csv")


@contextmanager
def counted_parts() -> Iterator[list[slice]]:
    """What is put aside inside the block."""
    put_aside: list[slice] = []
    write = Spill.write

    def noted(self: Spill, frame: pl.DataFrame) -> slice:
        put_aside.append(write(self, frame))
        return put_aside[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spill, "write", noted)
        yield put_aside


def same(found: Encoded, expected: Encoded) -> bool:
    return [v.digest for v in found.vocabularies.values()] == [v.digest for v in expected.vocabularies.values()]


@pytest.mark.parametrize("bound", [0, 10_000, 40_000])
def test_every_kind_of_field_has_the_same_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    folder = place(tmp_path, SCHEMA)
    write_rows(folder)
    source = open_source(str(folder))
    with counted_parts() as none:
        expected = encode(source, tmp_path / "memory", seed=0)
    monkeypatch.setattr(stream_module, "CHUNK_ROWS", 100)
    monkeypatch.setattr(ValueCounter, "_WAITING", 50)
    monkeypatch.setattr(ValueCounter, "_MANY", 25)
    with counted_parts() as parts:
        found = encode(source, tmp_path / "disk", seed=0, counted_bytes=bound)
    assert not none
    assert len(parts) > 2 * counting_module._PARTS
    assert same(found, expected)
    item = expected.vocabularies["item"]
    assert item.unknown > 1
    assert item.counts[item.unknown] > item.counts[2:].max() / 20
    for split, rows in expected.rows.items():
        np.testing.assert_array_equal(found.rows[split].ids, rows.ids)
        for name, ids in rows.multi.items():
            np.testing.assert_array_equal(found.rows[split].multi[name], ids)
    files = [
        sorted(f.relative_to(out).as_posix() for f in out.rglob("*"))
        for out in (tmp_path / "disk", tmp_path / "memory")
    ]
    assert files[0] == files[1]


VALUES = st.lists(
    st.none() | st.text(max_size=20) | st.sampled_from(["a", "b", "of more than twelve bytes"]), max_size=60
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 800))
def test_it_does_not_matter_what_is_put_aside_when(chunks: list[list[str | None]], least: int, bound: int) -> None:
    plain, spilled = ([ValueCounter(name, "string", padded=name == "f") for name in "fg"] for _ in range(2))
    with tempfile.TemporaryDirectory() as folder, Spill(Path(folder)) as spill:
        for number, chunk in enumerate(chunks):
            for counters in (plain, spilled):
                counters[number % 2].add(pl.Series(chunk, dtype=pl.String))
            keep_within(bound, spilled, spill)
            assert sum(counter.nbytes for counter in spilled) <= bound
        found, expected = (ValueCounter.shared(counters, least) for counters in (spilled, plain))
    assert [v.digest for v in found] == [v.digest for v in expected]


def test_whole_numbers_of_every_size(tmp_path: Path) -> None:
    numbers = pl.Series([-(2**63), 2**63 - 1, 0, -1, 1, 2**53 + 1, None] * 3 + [7], dtype=pl.Int64)
    plain, spilled = ValueCounter("f", "int64"), ValueCounter("f", "int64")
    with Spill(tmp_path) as spill:
        for _ in range(2):
            plain.add(numbers)
            spilled.add(numbers)
            spilled.spill(spill)
        assert spilled.vocabulary(3).digest == plain.vocabulary(3).digest


def test_a_description_does_not_need_the_values(tmp_path: Path) -> None:
    folder = place(tmp_path, SCHEMA)
    write_rows(folder)
    source = open_source(str(folder))
    expected = describe(source)
    assert expected.fields[0].values > 100
    with counted_parts() as parts:
        assert describe(source, counted_bytes=1000) == expected
    assert parts


def test_the_largest_goes_first(tmp_path: Path) -> None:
    few, many = ValueCounter("few", "int64"), ValueCounter("many", "int64")
    few.add(pl.Series(range(10)))
    many.add(pl.Series(range(1000)))
    with Spill(tmp_path) as spill:
        keep_within(1000, [few, many], spill)
        assert (few.nbytes > 0, many.nbytes) == (True, 0)


def resident_mib() -> int:
    """Memory of this process that is no file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) >> 10


def test_new_texts_do_not_keep_the_chunks_that_they_came_in() -> None:
    counter = ValueCounter("f", "string")
    known = pl.Series([f"{i:05}" * 200 for i in range(4000)])
    counter.add(known)
    counter._learn()
    before = resident_mib()
    for number in range(50):  # each of 4 MB, of which 40 kB are new
        new = pl.Series([f"new in {number}: {i}" * 50 for i in range(40)])
        counter.add(pl.select(pl.concat_str(pl.concat([known, new]), pl.lit(""))).to_series())
    assert counter.vocabulary(1).size == 2 + 4000 + 50 * 40
    assert resident_mib() - before < 100


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    folder = place(tmp_path, SCHEMA.replace("number 7,", "that is nowhere,"))
    write_rows(folder)
    with counted_parts() as parts, pytest.raises(InputError, match="unknown values cannot be read as"):
        encode(open_source(str(folder)), tmp_path / "out", seed=0, counted_bytes=0)
    assert parts
    assert not list((tmp_path / "out").rglob("*"))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    folder = place(tmp_path, SCHEMA)
    write_rows(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(
            EnvironmentLacks, match=r"(?s)no room left while putting counted values aside.*out.*free disk"
        ):
            encode(open_source(str(folder)), tmp_path / "out", seed=0, counted_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "out").rglob("*"))


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import polars as pl
from amtl_export.data.catalog import open_source
from amtl_export.data.encode import encode
from amtl_export.data.spill import Spill

write = Spill.write
def first(self, frame):
    place = write(self, frame)
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    return place
Spill.write = first
encode(open_source(sys.argv[1]), Path(sys.argv[2]), 0, counted_bytes=0)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_an_interruption_leaves_nothing(tmp_path: Path, name: str) -> None:
    folder = place(tmp_path, SCHEMA)
    write_rows(folder, 200)
    program = [sys.executable, "-c", _INTERRUPTED, str(folder), str(tmp_path / "out"), name]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == -getattr(signal, name), done.stderr
    assert (tmp_path / "out").is_dir()
    assert not list((tmp_path / "out").rglob("*"))
