import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amtl_export.errors import EnvironmentLacks, InputError, from_os_error
from amtl_export.files import atomic_folder, checksum_mismatches, producer, write_json, write_sums


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as draft:
        (draft / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "out") as draft:
        (draft / "all").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "all").read_text() == "x"


def test_an_older_folder_stays_until_the_new_one_stands(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "out", overwrite=True) as draft:
            write_json(draft / "config.json", {"producer": producer()})
            (draft / "text").write_text(text)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out", overwrite=True) as draft:
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "text").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as draft:
        (draft / "x").write_text("x")
    assert (tmp_path / "out" / "x").exists()


def test_checksums_see_every_change(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert checksum_mismatches(tmp_path) == []
    (tmp_path / "deep" / "b").write_text("c")
    (tmp_path / "a").unlink()
    assert checksum_mismatches(tmp_path) == ["a", "deep/b"]
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        checksum_mismatches(tmp_path)


def test_a_file_that_is_not_listed_is_a_mismatch(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    write_sums(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_text("b")
    assert checksum_mismatches(tmp_path) == ["deep/b (not listed)"]
    (tmp_path / "SHA256SUMS").write_text("")
    assert checksum_mismatches(tmp_path) == ["a (not listed)", "deep/b (not listed)"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_stays(tmp_path: Path, overwrite: bool) -> None:
    with (
        pytest.raises(InputError, match="exists"),
        atomic_folder(tmp_path / "out", overwrite=overwrite) as draft,
    ):
        (draft / "ours").write_text("x")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("y")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "theirs"]


def test_drafts_of_killed_processes_go(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from amtl_export.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("out", "other"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_folder(tmp_path / "out"), atomic_folder(tmp_path / "out.2"):  # drafts of living processes stay
        pass
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".other.")) == ["out", "out.2"]
    assert len(list(tmp_path.glob(".other.*"))) == 1


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_the_environments_fault(code: int) -> None:
    error = from_os_error(OSError(code, "no room", "/x/y"), "writing")
    assert isinstance(error, EnvironmentLacks)
    assert "/x/y" in str(error)
