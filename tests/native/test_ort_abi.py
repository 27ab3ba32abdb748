"""The interface of ONNX Runtime that the library declares by itself is that of ONNX Runtime's own header."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ort_header import facts, functions, parameters

HERE = Path(__file__).parent
ABI = HERE.parents[1] / "amtl_export" / "native" / "ort_abi.h"
HEADER: dict[str, Any] = json.loads((HERE / "ort_header.json").read_text(encoding="utf-8"))

#: Prefix in ort_abi.h → prefix in the header, of numbers.
_NUMBERS = {"AMTL_ORT_INVALID_ARGUMENT": "ORT_INVALID_ARGUMENT", "AMTL_ORT_REQUIRED": "INPUT_OUTPUT_REQUIRED"}


def differences(abi: str) -> list[str]:
    """What ort_abi.h says otherwise than the header, a line each."""
    slots = {name: int(at) for name, at in re.findall(r"AMTL_ORT_SLOT_(\w+) = (\d+)", abi)}
    found = [
        f"{name} is said to be {at}, is {HEADER['OrtApi'].get(name)}"
        for name, at in slots.items()
        if HEADER["OrtApi"].get(name, [None])[0] != at
    ]
    calls = re.findall(r"AMTL_ORT_CALL\(api, (\w+), (?:OrtStatus \* |void )\(\*\)\(", abi)
    if sorted(calls) != sorted(slots):
        found.append(f"called and not declared, or the reverse: {set(calls) ^ set(slots)}")
    for name in calls:
        text = re.split(rf"AMTL_ORT_CALL\(api, {name}, (?:OrtStatus \* |void )\(\*\)\(", abi)[1]
        if parameters(text) != HEADER["OrtApi"].get(name, [0, -1])[1]:
            found.append(f"{name} is called with {parameters(text)} parameters")
    members = functions(abi, "OrtCustomOp")
    expected = sorted((at, name, count) for name, (at, count) in HEADER["OrtCustomOp"].items())
    stated = [(at, name, count) for at, (name, count) in enumerate(members, start=1)]
    found += [
        f"OrtCustomOp: {own} for {theirs}" for own, theirs in zip(stated, expected, strict=False) if own != theirs
    ]
    numbers = dict(re.findall(r"(AMTL_ORT_[A-Z0-9_]+) = (\d+)", abi))
    for name, number in numbers.items():
        if name.startswith(("AMTL_ORT_SLOT", "AMTL_ORT_API")):
            continue
        theirs = _NUMBERS.get(name, f"ONNX_TENSOR_ELEMENT_DATA_TYPE_{name.removeprefix('AMTL_ORT_')}")
        if HEADER["numbers"].get(theirs) != int(number):
            found.append(f"{name} is said to be {number}, is {HEADER['numbers'].get(theirs)}")
    return found


def test_places_and_numbers_are_those_of_the_header() -> None:
    assert differences(ABI.read_text(encoding="utf-8")) == []
    assert [at for at, _ in HEADER["OrtApi"].values()] == list(range(len(HEADER["OrtApi"])))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("SLOT_GetDimensions = 62", "SLOT_GetDimensions = 63", "GetDimensions is said"),
        ("SLOT_KernelContext_ParallelFor = 274", "SLOT_KernelContext_ParallelFor = 273", "ParallelFor is said"),
        ("SLOT_CreateStatus = 0", "SLOT_MakeStatus = 0", "MakeStatus is said"),
        ("AMTL_ORT_UINT16 = 4", "AMTL_ORT_UINT16 = 5", "UINT16 is said"),
        ("AMTL_ORT_INVALID_ARGUMENT = 2", "AMTL_ORT_INVALID_ARGUMENT = 1", "INVALID_ARGUMENT is said"),
        ("  void (*KernelDestroy)(void *);\n", "", "OrtCustomOp"),
        ("(*GetName)(const OrtCustomOp *)", "(*GetName)(const OrtCustomOp *, size_t)", "OrtCustomOp"),
        ("OrtStatus * (*)(int, const char *))", "OrtStatus * (*)(int, const char *, size_t))", "with 3 parameters"),
    ],
)
def test_a_place_that_differs_is_found(old: str, new: str, says: str) -> None:
    abi = ABI.read_text(encoding="utf-8")
    assert old in abi
    assert any(says in line for line in differences(abi.replace(old, new, 1)))


def test_the_facts_are_those_of_a_header_at_hand(tmp_path: Path) -> None:
    if (header := os.environ.get("AMTL_EXPORT_ORT_HEADER")) is None:
        pytest.skip("set AMTL_EXPORT_ORT_HEADER to the onnxruntime_c_api.h of a release")
    found = facts(Path(header), tmp_path)
    for part in ("OrtApi", "OrtCustomOp", "numbers"):
        assert found[part] == HEADER[part]
