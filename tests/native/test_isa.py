"""Which instruction set's kernels a process uses, and how one is forced."""

import _ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amtl_export.errors import EnvironmentLacks
from amtl_export.native import FORCE_ISA, MOST_DIM, available_isas, isa_in_use, library_path
from amtl_export.tables.plan import BLOCK

SOURCES = Path(__file__).parents[2] / "amtl_export" / "native"
LIBRARY = library_path()
ISAS = ("scalar", "avx2", "avx512", "vnni")

needs_library = pytest.mark.skipif(LIBRARY is None, reason="the native operator was not built: no C compiler")

#: One fused layer in int8, by the runtime, in a process of its own; prints the instruction set and the answer's bytes.
PROGRAM = """
import sys
import numpy as np
from test_hostile_nodes import LINEAR_INT8, sound
from amtl_export.native import isa_in_use, library_path
from amtl_export.runtime.session import open_session
from pathlib import Path
file = Path(sys.argv[1])
node = sound(LINEAR_INT8)
node.write(file)
print(isa_in_use(library_path()), open_session(file, native=True).run(None, {"ids": node.ids})[0].tobytes().hex())
"""


CLI = "from amtl_export.cli.main import main; main()"


def python(program: str, *words: object, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != FORCE_ISA}
    environment |= {} if isa is None else {FORCE_ISA: isa}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def doctor(isa: str) -> dict[str, Any]:
    """What `doctor` says of the instruction set."""
    shown = python(CLI, "doctor", "--json", "-", "-q", isa=isa)
    assert shown.returncode == 0, shown.stderr
    (check,) = [check for check in json.loads(shown.stdout) if check["part"] == "instruction set"]
    return dict(check)


@needs_library
def test_each_set_is_forced_and_answers_alike(tmp_path: Path) -> None:
    assert LIBRARY is not None
    answers = set()
    available = available_isas(LIBRARY)
    assert available[0] == "scalar"
    for isa in available:
        done = python(PROGRAM, tmp_path / "node.onnx", isa=isa)
        assert done.returncode == 0, done.stderr
        used, answer = done.stdout.split()
        assert used == isa
        answers.add(answer)
    assert len(answers) == 1  # sums of whole numbers are exact
    for unset in (None, ""):
        assert python(PROGRAM, tmp_path / "node.onnx", isa=unset).stdout.split()[0] == available[-1]


@needs_library
@pytest.mark.parametrize("name", ["avx9", "AVX2"])
def test_an_unknown_name_is_an_error(tmp_path: Path, name: str) -> None:
    done = python(PROGRAM, tmp_path / "node.onnx", isa=name)
    assert done.returncode != 0
    assert f"InputError: {FORCE_ISA} names no instruction set" in done.stderr
    check = doctor(name)
    assert check["found"] is None
    assert f"{FORCE_ISA} names no instruction set: {name}" in check["cost"]
    assert FORCE_ISA in check["fix"]
    assert python(CLI, "doctor", "-q", "--require", "instruction set", isa=name).returncode == 4


@needs_library
def test_other_hosts_of_the_library_are_told_so(tmp_path: Path) -> None:
    program = "import sys, onnxruntime as o; o.SessionOptions().register_custom_ops_library(sys.argv[1])"
    done = python(program, LIBRARY, isa="avx9")
    assert done.returncode != 0
    assert "AMTL_FORCE_ISA names no instruction set that this processor has" in done.stderr
    assert python(program, LIBRARY, isa="scalar").returncode == 0


@needs_library
def test_a_set_that_this_processor_lacks_is_an_error() -> None:
    assert LIBRARY is not None
    missing = [isa for isa in ISAS if isa not in available_isas(LIBRARY)]
    if not missing:
        pytest.skip("this processor has all of them")
    program = "import sys; from amtl_export.native import isa_in_use; isa_in_use(sys.argv[1])"
    assert EnvironmentLacks.__name__ in python(program, LIBRARY, isa=missing[0]).stderr


@pytest.mark.parametrize("content", [b"no library", None])
def test_a_library_that_is_none_of_ours_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    file = Path(_ctypes.__file__)  # a library, but another one
    if content is not None:
        file = tmp_path / "amtl_ort.so"
        file.write_bytes(content)
    with pytest.raises(EnvironmentLacks, match="cannot be used"):
        isa_in_use(file)


@needs_library
def test_it_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIBRARY is not None
    first = isa_in_use(LIBRARY)
    monkeypatch.setenv(FORCE_ISA, "avx9")
    assert isa_in_use(LIBRARY) == first


@needs_library
def test_doctor_shows_it() -> None:
    assert LIBRARY is not None
    assert doctor("scalar")["found"] == f"scalar, of {', '.join(available_isas(LIBRARY))}"


def test_python_and_c_state_the_same_sizes() -> None:
    sizes = (SOURCES / "sizes.h").read_text(encoding="utf-8")
    (bits,) = re.findall(r"AMTL_MOST_DIM = 1 << (\d+),", sizes)
    assert 1 << int(bits) == MOST_DIM
    assert f"AMTL_BLOCK = {BLOCK}," in (SOURCES / "table.h").read_text(encoding="utf-8")


def test_names_in_headers_are_prefixed() -> None:
    """Whoever includes a header gets no name of it that is not amtl_ or AMTL_; ort_abi.h has ONNX Runtime's own too."""
    for header in sorted(SOURCES.glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
        names = re.findall(r"^\s*#define (\w+)", text, re.MULTILINE)
        names += re.findall(r"^\} (\w+);", text, re.MULTILINE)
        names += re.findall(r"^(?:typedef )?(?:enum|struct) (\w+)", text, re.MULTILINE)
        names += re.findall(r"^typedef [^;{]*?(\w+)(?: __attribute__|\(|;)", text, re.MULTILINE)
        kinds = "AMTL_INLINE|static|enum|extern|const|int|void|size_t"
        names += re.findall(rf"^(?:{kinds})\b[^;{{(=]*?(\w+)(?:\(|\[|;)", text, re.MULTILINE)
        for body in re.findall(r"\benum(?: \w+)? \{([^}]*)\}", text):
            names += re.findall(r"(\w+)(?: =[^,]*)?(?:,|$)", body.strip())
        allowed = ("amtl_", "AMTL_", "Ort") if header.name == "ort_abi.h" else ("amtl_", "AMTL_")
        assert len(names) > 2, header
        assert [name for name in names if not name.startswith(allowed) and not name.isdigit()] == [], header
