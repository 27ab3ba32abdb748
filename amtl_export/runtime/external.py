"""Where an .onnx file says that its weights are: in its own folder, or it is not opened.

ONNX Runtime reads what a graph names, and may be told to read any file of the machine. This reads the file's Protocol
Buffers itself, since servers that answer have no `onnx`; it travels with a model, as `runtime.predictor`.
"""

from __future__ import annotations

from pathlib import Path

from amtl_export.errors import InputError

#: Message of ONNX → field number → message that it holds; `Entry` is a key and a value.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}

#: Bodies within bodies.
_DEEPEST = 100

#: Bytes of the wire types that have a fixed size.
_FIXED = {1: 8, 5: 4}


def check_external(model: Path) -> None:
    """Refuse a graph whose weights are not files of its own folder.

    Args:
        model: the .onnx file.

    Raises:
        InputError: it cannot be read, is no ONNX, or names a file elsewhere: by an absolute path, `..`, or a link.
    """
    try:
        data = model.read_bytes()
    except OSError as error:
        raise InputError("the graph cannot be read", where=model, found=error.strerror) from None
    if b"location" not in data:  # the key of every place
        return
    try:
        named = _locations(memoryview(data))
    except (ValueError, IndexError) as error:
        raise InputError(
            "the file is no ONNX", where=model, found=error or "truncated", fix="export it again"
        ) from None
    for location in sorted(named):
        file = model.parent / location
        parts = location.replace("\\", "/").split("/")
        if not location or {"", ".", ".."}.intersection(parts) or "\0" in location or ":" in location:
            raise InputError("a graph's weights are outside its folder", where=model, found=repr(location))
        links = [model.parent.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
        if any(link.is_symlink() for link in links):
            raise InputError(
                "a graph's weights are behind a link", where=file, fix="copy the file to where the link is"
            )
        if not file.is_file():
            raise InputError("a graph's weights are missing", where=file, fix="is the folder complete? export it again")


def _locations(data: memoryview) -> set[str]:
    """Every file that tensors name."""
    found: set[str] = set()
    waiting = [(data, "Model", 0)]
    while waiting:
        message, kind, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("bodies within bodies without end")
        parts = _MESSAGES[kind]
        entry: dict[int, bytes] = {}
        for field, content in _fields(message, {1, 2} if kind == "Entry" else set(parts)):
            if kind == "Entry":
                entry[field] = bytes(content)
            else:
                waiting.append((content, parts[field], depth + 1))
        if entry.get(1) == b"location":
            found.add(entry.get(2, b"").decode("utf-8"))
    return found


def _fields(message: memoryview, wanted: set[int]) -> list[tuple[int, memoryview]]:
    """Number and bytes of the wanted fields that are messages or texts."""
    found, at, end = [], 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > end:
                raise ValueError("truncated")
            if tag >> 3 in wanted:
                found.append((tag >> 3, message[at : at + size]))
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")
    if at > end:
        raise ValueError("truncated")
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where the next one begins."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
