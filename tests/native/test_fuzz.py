"""The operators and their kernels under sanitizers, a few thousand drawn cases of each; `make fuzz` runs a million."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fuzz_native import (
    ARM_COMPILER,
    ARM_RUNNERS,
    CUDA,
    ISAS,
    KERNELS,
    OPERATORS,
    QUICK,
    STRICT,
    TESTS,
    THREADED,
    build,
    c_compiler,
    fuzz,
)

CC = c_compiler()
LOOPS = (TESTS / "fuzz.c", TESTS / "cuda_on_cpu.c")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler: install gcc or clang, or set CC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sanitized kernels are compiled once for both programs."""
    return tmp_path_factory.mktemp("fuzz")


def counted(program: Path, isa: str, cases: int, seed: int, runner: tuple[str, ...] = ()) -> dict[str, Any]:
    """Skips where this processor does not have the instruction set."""
    try:
        return fuzz(program, isa, cases, seed, runner=runner)
    except RuntimeError as error:
        if "names no instruction set" in str(error):
            pytest.skip(f"this processor has no {isa}")
        raise


@pytest.mark.parametrize("isa", ISAS)
def test_operators_refuse_what_contradicts_itself_and_answer_what_does_not(folder: Path, isa: str) -> None:
    assert CC is not None
    program = build(CC, QUICK, (*OPERATORS, *KERNELS), folder / "operators", folder / "sanitized")
    for seed in (3, 4):  # of ONNX Runtime 1.32 and 1.16
        found = counted(program, isa, 2000, seed)
        assert (found["operators"], found["cases"]) == (56, 2000)
        assert found["answered"] > 1000
        assert found["refused"] > 500
        assert len(found["words"]) > 40
        assert found["words"]["attribute dim is #, allowed #"] > 100


def test_operators_of_a_gpu(folder: Path) -> None:
    assert CC is not None
    program = build(CC, (*QUICK, "-DAMTL_CUDA"), CUDA, folder / "gpu", folder / "for-gpu")
    found = fuzz(program, "cuda", 4000, 3)
    assert (found["operators"], found["cases"]) == (24, 4000)
    assert found["answered"] > 2000
    assert found["refused"] > 1000


def test_one_kernel_in_several_threads(folder: Path) -> None:
    assert CC is not None
    program = build(CC, THREADED, (*OPERATORS, *KERNELS), folder / "threads", folder / "threaded")
    done = subprocess.run([program, "600", "1", "0", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"cases": 600' in done.stdout


def test_kernels_and_tables_that_contradict_themselves(folder: Path) -> None:
    assert CC is not None
    program = build(CC, QUICK, (*LOOPS, *KERNELS), folder / "loops", folder / "sanitized")
    done = subprocess.run([program, "1500", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50_000


@pytest.mark.parametrize(
    ("compiler", "runners", "isas"),
    [("clang", (), ISAS), (ARM_COMPILER, ARM_RUNNERS, ("scalar",))],
    ids=["clang", "arm"],
)
def test_another_compiler_and_another_processor(
    folder: Path, compiler: str, runners: tuple[str, ...], isas: tuple[str, ...]
) -> None:
    """Debian's packages clang; gcc-aarch64-linux-gnu and qemu-user."""
    runner = next((path for name in runners if (path := shutil.which(name))), None)
    if shutil.which(compiler) is None or (runners and runner is None):
        pytest.skip(f"not installed: {', '.join((compiler, *runners[:1]))}")
    flags = (*STRICT, "-O2", *(["-static"] if runners else []))
    objects = folder / f"for-{compiler}"
    program = build(compiler, flags, (*OPERATORS, *KERNELS), folder / f"operators-{compiler}", objects)
    for isa in isas:
        found = counted(program, isa, 2000, 5, (runner,) if runner else ())
        assert found["answered"] > 1000
    loops = build(compiler, flags, (*LOOPS, *KERNELS), folder / f"loops-{compiler}", objects)
    command = [*([runner] if runner else []), str(loops), "300", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000
