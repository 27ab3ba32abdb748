"""Requests of the Open Inference Protocol v2, right and wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import InputError
from amtl_export.files import read_json
from amtl_export.runtime.predictor import load
from amtl_export.serving.open_inference import answer

WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not JSON"),
    "a list": ([1], "no inputs"),
    "no inputs": ({}, "no inputs"),
    "inputs that are none": ({"inputs": [1]}, "are objects"),
    "another type": ({"inputs": [{"name": "ids", "shape": [1], "datatype": "FP8", "data": [0]}]}, "found: FP8"),
    "more data": ({"inputs": [{"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [0, 1]}]}, "do not fit"),
    "a text": ({"inputs": [{"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": ["a"] * 3}]}, "do not fit"),
    "past int64": ({"inputs": [{"name": "ids", "shape": [1, 1], "datatype": "INT64", "data": [2**63]}]}, "do not fit"),
    "no shape": ({"inputs": [{"name": "ids", "datatype": "INT64", "data": [0]}]}, "do not fit"),
    "an input left out": ({"inputs": []}, "missing or unknown"),
    "other vocabularies": ({"inputs": [], "parameters": {"vocabulary_hash": "abc"}}, "ids of another vocabulary"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_requests(served_bundle: Bundle, kind: str) -> None:
    request, says = WRONG[kind]
    body = request if isinstance(request, str) else json.dumps(request)
    with pytest.raises(InputError, match=says):
        answer("ctr", load(served_bundle.path), body.encode())


def test_what_is_asked_twice_or_unknown(served_bundle: Bundle) -> None:
    request = read_json(served_bundle.path / "samples" / "request.json")
    predictor = load(served_bundle.path)
    with pytest.raises(InputError, match="given twice"):
        answer("ctr", predictor, json.dumps({"inputs": request["inputs"] * 2}).encode())
    with pytest.raises(InputError, match="output is unknown"):
        answer("ctr", predictor, json.dumps(request | {"outputs": [{"name": "loss"}]}).encode())
    found = answer("ctr", predictor, json.dumps(request | {"outputs": [{"name": "probability"}]}).encode())
    assert [output["name"] for output in found["outputs"]] == ["probability"]
