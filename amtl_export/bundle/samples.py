"""Sample requests and responses, ONNX test data, and the bundle's own README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from amtl_export.bundle.inputs import Feed, as_request, draw
from amtl_export.bundle.signature import Signature
from amtl_export.errors import InputError
from amtl_export.files import write_json
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.inputs import Input

_ROWS = 4
_TYPES = {"int64": "INT64", "float32": "FP32", "object": "BYTES"}


def write_samples(draft: Path, frozen: FrozenModel, inputs: Sequence[Input], session: Any) -> None:
    """`samples/request.json` and `response.json` (Open Inference Protocol v2) and `test_data_set_0/`.

    Ids are drawn as often as training saw them. JSON knows no NaN, so sample numbers are all present.
    """
    feed = draw(frozen.config, frozen.vocabularies, _ROWS, np.random.default_rng(1))
    if "numeric" in feed:
        feed["numeric"] = np.where(np.isnan(feed["numeric"]), np.float32(0), feed["numeric"])
    feed = as_request(feed, inputs)
    names = ["logit", "probability"]
    outputs: Feed = dict(zip(names, session.run(names, feed), strict=True))
    write_messages(draft / "samples", feed, outputs)
    write_test_data(draft, feed, outputs)


def write_messages(folder: Path, feed: Feed, outputs: Feed) -> None:
    """`request.json` and `response.json`, in the form of the Open Inference Protocol v2."""
    folder.mkdir()
    write_json(folder / "request.json", {"inputs": [_tensor(name, array) for name, array in feed.items()]})
    write_json(folder / "response.json", {"outputs": [_tensor(name, array) for name, array in outputs.items()]})


def write_test_data(draft: Path, feed: Feed, outputs: Feed) -> None:
    """`test_data_set_0/`: inputs and outputs as ONNX tensors, the form that onnx's own test runners read."""
    folder = draft / "test_data_set_0"
    folder.mkdir()
    for kind, arrays in (("input", feed), ("output", outputs)):
        for number, (name, array) in enumerate(arrays.items()):
            tensor = onnx.numpy_helper.from_array(array, name)
            (folder / f"{kind}_{number}.pb").write_bytes(tensor.SerializeToString())


def read_test_data(bundle: Path, kind: Literal["input", "output"]) -> Feed:
    """What `write_test_data` wrote.

    Raises:
        InputError: a file is missing or truncated.
    """
    folder = bundle / "test_data_set_0"
    feed: Feed = {}
    for file in sorted(folder.glob(f"{kind}_*.pb"), key=lambda file: int(file.stem.partition("_")[2])):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
            feed[tensor.name] = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf's errors have no common base below Exception
            raise InputError("a sample cannot be read", where=file, found=error, fix="export it again") from None
    if not feed:
        raise InputError("a bundle lacks its samples", where=folder, fix="export it again")
    return feed


def _tensor(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = array.ravel().tolist()
    assert array.dtype == object or all(math.isfinite(value) for value in data)
    return {"name": name, "shape": list(array.shape), "datatype": _TYPES[str(array.dtype)], "data": data}


def write_readme(draft: Path, frozen: FrozenModel, signature: Signature) -> None:
    """The bundle's README: what it is, how to call it, what to know."""
    lines = [
        f"# {frozen.origin['backbone']} with {frozen.origin['method']} embeddings",
        "",
        f"Written by {' '.join(signature.producer.values())} from the run `{frozen.origin['run']}`.",
        f"Layout `{signature.layout}`, values {signature.dtype}, ids `{signature.id_policy}`.",
        "",
        "| input | type | shape | columns |",
        "|---|---|---|---|",
    ]
    for tensor in signature.inputs:
        columns = [f"{c.field} (0..{c.size - 1})" for c in tensor.columns] or list(tensor.fields)
        shape = ", ".join(str(size) for size in tensor.shape)
        lines.append(f"| `{tensor.name}` | {tensor.dtype} | [{shape}] | {', '.join(columns)} |")
    if signature.request_fields:
        lines += ["", "Inputs `[1, …]` are the request's, given once, and hold for all its candidates, the batch."]
    lines += ["", "Outputs `logit` and `probability`, float32 [batch].", "", "Reserved ids:", ""]
    lines += [f"- {name}: {meaning}" for name, meaning in signature.reserved.items()]
    if any(tensor.fields for tensor in signature.inputs):
        lines += ["", "Numbers go in raw; NaN is a missing one."]
    lines += [
        "",
        "`vocab/<field>.parquet` maps values to ids (columns id, kind, value, count, dims); ids of any other",
        f"vocabulary give wrong answers without an error. Its hash: `{signature.vocabulary_hash}`.",
        "`samples/` holds a request and its response, `test_data_set_0/` the same as ONNX tensors,",
        "`SHA256SUMS` checks with `sha256sum -c SHA256SUMS`.",
        "",
        "```python",
        "import json, numpy, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        'request = json.load(open("samples/request.json"))["inputs"]',
        'types = {"INT64": "int64", "FP32": "float32"}',
        'feed = {i["name"]: numpy.array(i["data"], types[i["datatype"]]).reshape(i["shape"]) for i in request}',
        'print(session.run(["probability"], feed))',
        "```",
        "",
    ]
    (draft / "README.md").write_text("\n".join(lines), encoding="utf-8")
