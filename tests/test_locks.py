import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amtl_export.errors import InputError
from amtl_export.files import atomic_folder
from amtl_export.locks import locked

HOLDER = """
import sys
from pathlib import Path
from amtl_export.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path, killed: bool) -> None:
    program = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        says = f"another process.*\n  where: .*out\n  found: process {holder.pid} on "
        with pytest.raises(InputError, match=says), locked(tmp_path / "out"):
            pytest.fail("two processes are working on one folder")
        with pytest.raises(InputError, match=says), atomic_folder(tmp_path / "out"):
            pass
        with locked(tmp_path / "other"):
            pass
        if killed:
            holder.send_signal(signal.SIGKILL)
        holder.communicate("\n", timeout=60)
    with atomic_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_thread_may_lock_a_folder_twice_and_another_one_not(tmp_path: Path) -> None:
    def refused() -> bool:
        try:
            with locked(tmp_path / "out"):
                return False
        except InputError:
            return True

    with ThreadPoolExecutor(1) as other, locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
            assert other.submit(refused).result()
        assert other.submit(refused).result(), "the inner block has not freed it"
    assert not refused()
    with locked(tmp_path / "new" / "deep" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_threads_take_turns_at_a_lock(tmp_path: Path) -> None:
    """The file is removed and made again all the time: nobody may hold one that has lost its name."""
    inside: list[int] = []
    together: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            try:
                with locked(tmp_path / "out"):
                    inside.append(number)
                    together.append(len(inside))
                    inside.remove(number)
            except InputError:
                pass

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert set(together) == {1}
