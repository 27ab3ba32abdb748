"""Sample requests and responses, ONNX test data, and the bundle's own README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from amtl_export.bundle.signature import Signature
from amtl_export.errors import InputError
from amtl_export.files import write_json
from amtl_export.graph.inputs import as_request, one_request
from amtl_export.spec import DATATYPES, Feed, TensorSpec, rows_of
from amtl_export.traffic.draw import draw

if TYPE_CHECKING:  # samples are read without PyTorch
    from amtl_export.freezing.frozen import FrozenModel

#: Rows of the JSON request, and of the ONNX test data of a user's module.
_ROWS, _TEST_ROWS = 4, 64


#: A request and its response beside the graph, in the form of the Open Inference Protocol v2.
MESSAGES = {"inputs": "samples/request.json", "outputs": "samples/response.json"}
MessageKind = Literal["inputs", "outputs"]


def write_samples(draft: Path, frozen: FrozenModel, inputs: Sequence[TensorSpec], session: Any) -> None:
    """`samples/request.json` and `response.json` (Open Inference Protocol v2) and `test_data_set_0/`.

    A run's ids are drawn as often as training saw them; a user's module has rows of its example. JSON knows no NaN, so
    sample numbers are all present.
    """
    feeds = sample_feeds(frozen, inputs)
    names = list(frozen.outputs)
    answers = [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    write_messages(draft / "samples", feeds[0], answers[0])
    write_test_data(draft, feeds[1], answers[1])


def sample_feeds(frozen: FrozenModel, inputs: Sequence[TensorSpec]) -> tuple[Feed, Feed]:
    """The sample request, and the inputs of the ONNX test data, as a graph takes them."""
    test, sample = _sample_rows(frozen)
    request, data = (as_request(one_request(rows, inputs), inputs) for rows in (sample, test))
    return request, data


def _sample_rows(frozen: FrozenModel) -> tuple[Feed, Feed]:
    """The model's inputs for the test data, and for the request."""
    if frozen.data is None:
        whole = any(spec.batch_axis is None and any(isinstance(s, str) for s in spec.shape) for spec in frozen.inputs)
        test = frozen.example if whole else rows_of(frozen.example, frozen.inputs, slice(_TEST_ROWS))
        return test, test if whole else rows_of(test, frozen.inputs, slice(_ROWS))
    feed = draw(frozen.data.config, frozen.data.vocabularies, _ROWS, np.random.default_rng(1))
    if "numeric" in feed:
        feed["numeric"] = np.where(np.isnan(feed["numeric"]), np.float32(0), feed["numeric"])
    return feed, feed


def write_messages(folder: Path, feed: Feed, outputs: Feed) -> None:
    """`request.json` and `response.json`, in the form of the Open Inference Protocol v2."""
    folder.mkdir()
    write_json(folder / "request.json", message("inputs", feed))
    write_json(folder / "response.json", message("outputs", outputs))


def message(kind: MessageKind, feed: Feed) -> dict[str, Any]:
    """A request or a response of the Open Inference Protocol v2, as JSON values."""
    return {kind: [_tensor(name, array) for name, array in feed.items()]}


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
    numbers = (file.stem.removeprefix(f"{kind}_") for file in folder.glob(f"{kind}_*.pb"))
    for number in sorted(int(text) for text in numbers if text.isascii() and text.isdecimal() and len(text) < 9):
        file, tensor = folder / f"{kind}_{number}.pb", onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
            name: Any = tensor.name
            if tensor.data_location == onnx.TensorProto.EXTERNAL or name in feed or isinstance(name, bytes):
                raise ValueError("its numbers are elsewhere, or its name is another sample's or not UTF-8")
            feed[name] = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf's errors have no common base below Exception
            raise InputError("a sample cannot be read", where=file, found=error, fix="export it again") from None
    if not feed:
        raise InputError("a bundle lacks its samples", where=folder, fix="export it again")
    return feed


def _tensor(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = array.ravel().tolist()
    if array.dtype.kind == "f":
        data = [value if math.isfinite(value) else None for value in data]  # JSON knows no NaN and no infinity
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[str(array.dtype)], "data": data}


def readme(frozen: FrozenModel, signature: Signature) -> str:
    """The bundle's README: what it is, how to call it, what to know."""
    lines = [
        f"# {frozen.origin['backbone']} with {frozen.origin['method']} embeddings",
        "",
        f"Written by {signature.producer['tool']} {signature.producer['version']} from `{frozen.origin['run']}`.",
        f"Layout `{signature.layout}`, values {signature.dtype}, ids `{signature.id_policy}`.",
        "",
        *_tensor_lines(signature),
        *_batch_lines(signature),
        "",
        *(_vocabulary_lines(signature) if signature.vocabulary_hash else []),
        "`samples/` holds a request and its response, `test_data_set_0/` ONNX tensors of the same form,",
        "`SHA256SUMS` checks with `sha256sum -c SHA256SUMS`.",
        "",
        "```python",
        "import json, numpy, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        'request = json.load(open("samples/request.json"))["inputs"]',
        f"types = {_types_of(signature)}",
        'feed = {i["name"]: numpy.array(i["data"], types[i["datatype"]]).reshape(i["shape"]) for i in request}',
        f'print(session.run(["{signature.answer}"], feed))',
        "```",
        "",
    ]
    return "\n".join(lines)


def _tensor_lines(signature: Signature) -> list[str]:
    lines = ["| input | type | shape | columns |", "|---|---|---|---|"]
    for tensor in signature.inputs:
        columns = [f"{c.field} (0..{c.size - 1})" if c.size else c.field for c in tensor.columns]
        shape = ", ".join(str(size) for size in tensor.shape)
        lines.append(f"| `{tensor.name}` | {tensor.dtype} | [{shape}] | {', '.join(columns)} |")
    if signature.request_fields:
        lines += ["", "Inputs `[1, …]` are given once per request and hold for all its candidates, the batch."]
    outputs = [f"`{o.name}` {o.dtype} [{', '.join(map(str, o.shape))}]" for o in signature.outputs]
    lines += ["", f"Outputs: {', '.join(outputs)}.", "", "Reserved ids:", ""]
    lines += [f"- {name}: {meaning}" for name, meaning in signature.reserved.items()]
    if any(tensor.name == "numeric" for tensor in signature.inputs):
        lines += ["", "Numbers go in raw; NaN is a missing one."]
    return lines


def _batch_lines(signature: Signature) -> list[str]:
    """What the batches that were tried came to, where it is not the plain answer."""
    found = {"A request of no example": signature.batches.none, "A request of one example": signature.batches.single}
    lines = [f"{what}: {text}." for what, text in found.items() if text != "answered"]
    if not signature.batches.independent:
        lines.append("Examples together are not answered as each alone: a server must not batch requests.")
    lines += [
        f"Ids outside the tables, input `{n}`: {text}."
        for n, text in signature.out_of_range.items()
        if text != "guarded"
    ]
    return ["", *lines] if lines else []


def _vocabulary_lines(signature: Signature) -> list[str]:
    return [
        "`vocab/<field>.parquet` maps values to ids (columns id, kind, value, count, dims); ids of any other",
        f"vocabulary give wrong answers without an error. Its hash: `{signature.vocabulary_hash}`.",
    ]


def _types_of(signature: Signature) -> str:
    used = sorted({tensor.dtype for tensor in signature.inputs})
    return "{" + ", ".join(f'"{DATATYPES[name]}": "{name}"' for name in used) + "}"
