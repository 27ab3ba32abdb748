"""What onnxruntime_c_api.h says of the interface that amtl_export/native/ort_abi.h declares by itself.

python tests/native/ort_header.py onnxruntime_c_api.h > tests/native/ort_header.json

`ort_header.json` holds facts of the header, none of its text: which function stands where in `OrtApi`, members of
`OrtCustomOp` in their order, how many parameters each has, and numbers of enumerations.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Of the functions that the library calls, the last in `OrtApi`; what follows in the table is left out.
LAST = "KernelContext_ParallelFor"

NUMBERS = (
    "ORT_INVALID_ARGUMENT",
    "INPUT_OUTPUT_REQUIRED",
    "OrtMemTypeDefault",
    *(f"ONNX_TENSOR_ELEMENT_DATA_TYPE_{t}" for t in ["FLOAT", "UINT8", "INT8", "UINT16", "INT32", "INT64", "FLOAT16"]),
)


def facts(header: Path, folder: Path) -> dict[str, Any]:
    """The facts of a header, by the C compiler: its preprocessor for names, a program for places and numbers."""
    compiler = os.environ.get("CC", "cc")
    include = f'#include "{header.resolve()}"\n'
    text = folder / "header.c"
    text.write_text(include, encoding="utf-8")
    plain = subprocess.run([compiler, "-E", "-P", str(text)], capture_output=True, text=True, check=True).stdout
    api = functions(plain, "OrtApi")
    api = api[: [name for name, _ in api].index(LAST) + 1]
    members = functions(plain, "OrtCustomOp")
    lines = [f'printf("%zu\\n", offsetof(OrtApi, {name}) / sizeof(void *));' for name, _ in api]
    lines += [f'printf("%zu\\n", offsetof(OrtCustomOp, {name}) / sizeof(void *));' for name, _ in members]
    lines += [f'printf("%d\\n", (int){name});' for name in ("ORT_API_VERSION", *NUMBERS)]
    program = include + "#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n"
    text.write_text(program, encoding="utf-8")
    subprocess.run([compiler, str(text), "-o", str(folder / "header")], check=True)
    done = subprocess.run([folder / "header"], capture_output=True, text=True, check=True)
    found = [int(line) for line in done.stdout.split()]
    places = dict(zip([name for name, _ in api], found, strict=False))
    order = dict(zip([name for name, _ in members], found[len(api) :], strict=False))
    version, *numbers = found[len(api) + len(members) :]
    return {
        "header": "include/onnxruntime/core/session/onnxruntime_c_api.h of microsoft/onnxruntime",
        "ORT_API_VERSION": version,
        "sha256": hashlib.sha256(header.read_bytes()).hexdigest(),
        "OrtApi": {name: [places[name], count] for name, count in api},
        "OrtCustomOp": {name: [order[name], count] for name, count in members},
        "numbers": dict(zip(NUMBERS, numbers, strict=True)),
    }


def functions(text: str, struct: str) -> list[tuple[str, int]]:
    """Name and number of parameters of each function pointer of a struct, in order; of preprocessed text."""
    body = text.split(f"struct {struct} {{", 1)[1].split("\n};", 1)[0]
    found = []
    for declaration in body.split(";"):
        if name := re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration):
            found.append((name[1], parameters(declaration[name.end() :])))
    return found


def parameters(text: str) -> int:
    """How many there are in a list that goes on to its closing parenthesis."""
    depth, commas = 0, 0
    for at, character in enumerate(text):
        if character == ")" and depth == 0:
            inside = text[:at].strip()
            return 0 if inside in ("", "void") else commas + 1
        depth += (character == "(") - (character == ")")
        commas += character == "," and depth == 0
    raise AssertionError(text)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(facts(Path(sys.argv[1]), Path(scratch))).replace("], ", "],\n"))
