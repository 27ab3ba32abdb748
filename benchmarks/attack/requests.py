"""Requests that nobody should send to a server, as the bytes on a connection."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Request = dict[str, Any]


@dataclass(frozen=True)
class Raw:
    """Bytes to send.

    Attributes:
        data: all of them.
        port: of the server, `http` or `grpc`.
        ends: whether the sender says that nothing follows.
        seconds: that an answer is waited for.
    """

    data: bytes
    port: str = "http"
    ends: bool = False
    seconds: float = 10.0


def posted(body: bytes, *headers: str, length: int | None = None, path: str = "/v2/models/ctr/infer") -> bytes:
    """A POST of a body."""
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _first(request: Request, **changes: Any) -> Raw:
    """The first input is another one."""
    first, *rest = request["inputs"]
    changed = {key: own for key, own in (first | changes).items() if own is not ...}
    return Raw(posted(json.dumps({"inputs": [changed, *rest]}).encode()))


def _number(request: Request, text: str) -> Raw:
    """The first number of the first input is this text."""
    first, *rest = request["inputs"]
    body = json.dumps({"inputs": [first | {"data": ["NUMBER", *first["data"][1:]]}, *rest]})
    return Raw(posted(body.replace('"NUMBER"', text).encode()))


def _with(request: Request, **changes: Any) -> Raw:
    """The request says more."""
    return Raw(posted(json.dumps(request | changes).encode()))


def _body(request: Request, body: bytes, *headers: str, length: int | None = None, ends: bool = False) -> Raw:  # noqa: ARG001 - as the others
    return Raw(posted(body, *headers, length=length), ends=ends)


def _cut(request: Request) -> Raw:
    """Fewer bytes than are said, and no more to come."""
    body = json.dumps(request).encode()
    return Raw(posted(body[: len(body) // 2], length=len(body)), ends=True, seconds=3)


def _headed(request: Request, *headers: str) -> Raw:
    return Raw(posted(json.dumps(request).encode(), *headers))


def _at(request: Request, path: str) -> Raw:
    return Raw(posted(json.dumps(request).encode(), path=path))


def _binary(request: Request, size: int, given: bytes) -> Raw:
    """An input whose numbers follow the JSON, and are said to be `size` bytes."""
    first, *rest = request["inputs"]
    named = {key: first[key] for key in ("name", "shape", "datatype")} | {"parameters": {"binary_data_size": size}}
    body = json.dumps({"inputs": [named, *rest]}).encode()
    return Raw(posted(body + given, f"Inference-Header-Content-Length: {len(body)}"))


def _grpc(request: Request, data: bytes) -> Raw:  # noqa: ARG001 - as the others
    return Raw(data, "grpc", ends=True, seconds=3)


_DEEP = 100_000

#: Name → what makes it of a request that is right.
REQUESTS: dict[str, Callable[[Request], Raw]] = {
    "unknown input": partial(_first, name="idz"),
    "input of no name": partial(_first, name=...),
    "name of a megabyte": partial(_first, name="x" * 1_000_000),
    "name that is a number": partial(_first, name=7),
    "wrong type": partial(_first, datatype="FP32"),
    "unknown type": partial(_first, datatype="INT1024"),
    "texts for ids": partial(_first, datatype="BYTES", data=["a"] * 12),
    "no data": partial(_first, data=...),
    "data of null": partial(_first, data=None),
    "data that is an object": partial(_first, data={"a": 1}),
    "data too short": partial(_first, data=[1]),
    "data too long": partial(_first, data=[1] * 10_000),
    "nested data": partial(_first, data=[[[[1]]]]),
    "no shape": partial(_first, shape=...),
    "shape of nothing": partial(_first, shape=[]),
    "shape of texts": partial(_first, shape=["4", "3"]),
    "negative shape": partial(_first, shape=[-1, 3]),
    "shape of 0": partial(_first, shape=[0, 0], data=[]),
    "shape of 2^31": partial(_first, shape=[2**31, 3]),
    "shape of 2^62": partial(_first, shape=[2**62, 4]),
    "shape past 64 bits": partial(_first, shape=[2**70, 3]),
    "shape of 1000 dimensions": partial(_first, shape=[1] * 1000),
    "rank 1": partial(_first, shape=[12]),
    "huge id": partial(_number, text=str(2**63 - 1)),
    "negative id": partial(_number, text=str(-(2**63))),
    "id past 64 bits": partial(_number, text=str(2**64)),
    "id of 10,000 digits": partial(_number, text="9" * 10_000),
    "NaN": partial(_number, text="NaN"),
    "infinity": partial(_number, text="1e400"),
    "null among ids": partial(_number, text="null"),
    "float among ids": partial(_number, text="0.5"),
    "unknown output": partial(_with, outputs=[{"name": "loss"}]),
    "output of no name": partial(_with, outputs=[{}]),
    "outputs of null": partial(_with, outputs=None),
    "classes of an output": partial(_with, outputs=[{"name": "logit", "parameters": {"classification": 10**9}}]),
    "unknown shared memory": partial(
        _with, outputs=[{"name": "logit", "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 8}}]
    ),
    "sequence id": partial(_with, parameters={"sequence_id": 2**63, "sequence_start": "x"}),
    "priority": partial(_with, parameters={"priority": -1, "timeout": -1}),
    "id of a megabyte": partial(_with, id="x" * 1_000_000),
    "no inputs": partial(_with, inputs=[]),
    "inputs of null": partial(_with, inputs=None),
    "inputs that are an object": partial(_with, inputs={"ids": [1]}),
    "100,000 inputs": lambda r: Raw(posted(json.dumps({"inputs": r["inputs"][:1] * 100_000}).encode()), seconds=60),
    "no body": partial(_body, body=b""),
    "no JSON": partial(_body, body=b"\x00\xff" * 50),
    "an array": partial(_body, body=b"[]"),
    "truncated JSON": lambda r: Raw(posted(json.dumps(r).encode()[:-20])),
    "deep arrays": partial(_body, body=b"[" * _DEEP),
    "deep arrays, closed": partial(_body, body=b"[" * _DEEP + b"]" * _DEEP),
    "deep objects": partial(_body, body=b'{"a":' * _DEEP),
    "deep data": partial(_number, text="[" * _DEEP + "]" * _DEEP),
    "100 MB of spaces": partial(_body, body=b'{"inputs": [' + b" " * 100_000_000),
    "truncated body": _cut,
    "length past the body": lambda r: Raw(posted(json.dumps(r).encode(), length=10**6), ends=True, seconds=3),
    "length of 10^18": lambda r: Raw(posted(json.dumps(r).encode(), length=10**18), ends=True, seconds=3),
    "negative length": lambda r: Raw(posted(json.dumps(r).encode(), length=-1), seconds=3),
    "header of 10 MB": lambda r: _headed(r, "X: " + "x" * 10_000_000),
    "100,000 headers": lambda r: _headed(r, *(f"X{i}: 1" for i in range(100_000))),
    "wrong gzip": lambda r: _body(r, b"nothing packed", "Content-Encoding: gzip"),
    "gzip of 1 GB": lambda r: _body(r, gzip.compress(bytes(10**9), 1), "Content-Encoding: gzip"),
    "JSON length past the body": lambda r: _headed(r, "Inference-Header-Content-Length: 99999999"),
    "negative JSON length": lambda r: _headed(r, "Inference-Header-Content-Length: -1"),
    "JSON length of text": lambda r: _headed(r, "Inference-Header-Content-Length: x"),
    "binary data missing": partial(_binary, size=96, given=b""),
    "binary data too short": partial(_binary, size=8, given=bytes(8)),
    "binary data of negative size": partial(_binary, size=-1, given=bytes(96)),
    "binary data of 2^62 bytes": partial(_binary, size=2**62, given=bytes(96)),
    "unknown model": lambda r: _at(r, "/v2/models/nobody/infer"),
    "unknown version": lambda r: _at(r, "/v2/models/ctr/versions/77/infer"),
    "version past 64 bits": lambda r: _at(r, f"/v2/models/ctr/versions/{2**70}/infer"),
    "path above": lambda r: _at(r, "/v2/models/../../../etc/passwd/infer"),
    "path of a megabyte": lambda r: _at(r, "/v2/models/" + "x" * 1_000_000 + "/infer"),
    "path with zeros": lambda r: _at(r, "/v2/models/ctr%00/infer"),
    "no HTTP": lambda _: Raw(b"\x16\x03\x01" + bytes(500), ends=True, seconds=3),
    "unknown method": lambda _: Raw(b"EAT / HTTP/9.9\r\n\r\n", seconds=3),
    "gRPC: no HTTP/2": partial(_grpc, data=b"GET / HTTP/1.1\r\n\r\n"),
    "gRPC: a frame of 16 MB": partial(
        _grpc, data=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0xFFFFFF)[1:] + bytes(100_000)
    ),
}
