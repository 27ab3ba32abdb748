"""Requests and responses of the Open Inference Protocol v2 as JSON, for servers that do not speak it by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from amtl_export.errors import InputError
from amtl_export.runtime.predictor import Arrays, Predictor
from amtl_export.spec import DATATYPES, TensorSpec


def metadata(name: str, model: Predictor) -> dict[str, Any]:
    """What a server says of a model."""
    inputs, outputs = ([_described(spec) for spec in specs] for specs in (model.inputs, model.outputs))
    return {"name": name, "versions": ["1"], "platform": "onnxruntime", "inputs": inputs, "outputs": outputs}


def answer(name: str, model: Predictor, body: bytes) -> dict[str, Any]:
    """The response to a request.

    Raises:
        InputError: it is not JSON of the protocol, its tensors do not fit the model, or its parameter
            `vocabulary_hash` is that of other vocabularies than the model's.
    """
    request = _parsed(body)
    if vocabulary_hash := request.get("parameters", {}).get("vocabulary_hash"):
        model.check_vocabulary(str(vocabulary_hash))
    answers = model.predict(_inputs(request))
    wanted = [output.get("name") for output in request.get("outputs", [])] or list(answers)
    if unknown := sorted(str(output) for output in set(wanted) - set(answers)):
        raise InputError("an output is unknown", found=", ".join(unknown), allowed=", ".join(answers))
    return {
        "model_name": name,
        "model_version": "1",
        "outputs": [_tensor(output, answers[output]) for output in wanted],
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if isinstance(size, str) else size for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise InputError("the request is not JSON", found=error) from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise InputError("the request has no inputs", allowed='{"inputs": [{"name", "shape", "datatype", "data"}]}')
    parts = [*request["inputs"], *request.get("outputs", [])]
    if not all(isinstance(part, dict) for part in (*parts, request.get("parameters", {}))):
        raise InputError("inputs, outputs and parameters of a request are objects")
    return request


def _inputs(request: Mapping[str, Any]) -> Arrays:
    types = {name: dtype for dtype, name in DATATYPES.items()}
    arrays: Arrays = {}
    for tensor in request["inputs"]:
        name, datatype = str(tensor.get("name")), tensor.get("datatype")
        if name in arrays:
            raise InputError("an input is given twice", where=name)
        if datatype not in types:
            raise InputError(
                "an input has another type", where=name, found=datatype, allowed=", ".join(DATATYPES.values())
            )
        try:
            arrays[name] = np.array(tensor["data"], dtype=types[datatype]).reshape(tuple(tensor["shape"]))
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise InputError("data and shape of an input do not fit", where=name, found=error) from None
    return arrays


def _tensor(name: str, values: np.ndarray[Any, Any]) -> dict[str, Any]:
    datatype = DATATYPES[str(values.dtype)]
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
