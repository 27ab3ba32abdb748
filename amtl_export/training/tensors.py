"""safetensors files: written from where tensors lie, read with errors that name the file and the tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from amtl_export.errors import InputError, os_errors
from amtl_export.training.distributed import ALONE, Ranks
from amtl_export.training.held import held_of

#: Data type → its name in a file, those of wide numbers first, as safetensors orders tensors.
_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

#: Values of a tensor that are worked on at a time, where it is not written from where it lies, and where it is checked.
_COPIED = 1 << 20


def save_tensors(tensors: Mapping[str, Tensor], path: Path, ranks: Ranks = ALONE) -> None:
    """Write tensors to one safetensors file, from where they lie in memory: nothing is copied but what is no block.

    Of several processes all call it: the first one writes what all have, and each one the rows that it holds
    (`training.held`).

    Raises:
        InputError: a tensor's data type is none of a safetensors file.
        OSError: the file cannot be written (disk full, no permission).
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise InputError("a tensor cannot be stored", where=f"{path}, tensor {name}", found=tensor.dtype)
    order = {dtype: number for number, dtype in enumerate(_NAMES)}
    names = sorted(tensors, key=lambda name: (order[tensors[name].dtype], name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        held = held_of(tensor)
        shape = [*tensor.shape] if held is None else [held.count, *tensor.shape[1:]]
        end += math.prod(shape) * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if ranks.first:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                if held_of(tensors[name]) is None:
                    _write(tensors[name], file)
            file.truncate(8 + len(text) + end)
    if not any(held_of(tensor) for tensor in tensors.values()):
        return
    ranks.wait()
    with path.open("r+b") as file:
        for name in names:
            if (held := held_of(tensors[name])) is not None:
                row = tensors[name][:1].nbytes if len(tensors[name]) else 0
                file.seek(8 + len(text) + header[name]["data_offsets"][0] + held.start * row)
                _write(tensors[name], file)
    ranks.wait()


def _write(tensor: Tensor, file: BinaryIO) -> None:
    for block in _blocks(tensor.detach()):
        file.write(block)


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes in order."""
    if not tensor.numel():
        return
    in_place = tensor.is_contiguous() and tensor.device.type == "cpu"
    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    step = len(rows) if in_place else max(1, _COPIED * len(rows) // tensor.numel())
    for start in range(0, len(rows), step):
        part = rows[start : start + step].cpu().contiguous()
        yield part.reshape(-1).view(torch.uint8).numpy().data


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of a safetensors file, mapped into memory.

    Attributes:
        path: of the file.

    Raises:
        InputError: the file is missing, truncated or corrupted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = load_tensors(path)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file into memory: what is written to the tensors is not written to the file.

    Raises:
        InputError: the file is missing, truncated or corrupted.
    """
    if not path.is_file():
        raise InputError("a file is missing", where=path, fix="is the folder complete? train or freeze again")
    with os_errors("reading", path), path.open("rb"):  # safetensors says "no such file" where it may not read one
        pass
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            "a checkpoint is truncated or corrupted",
            where=path,
            found=error,
            fix="restore it from a copy, or train again",
        ) from None


#: Bytes from which on a tensor stays in its file, mapped; smaller ones are copied, at aligned addresses.
_MAPPED = 1 << 24


def map_into(module: nn.Module, path: Path) -> None:
    """Fill a module's parameters and buffers from a file; large ones are the file, mapped into memory.

    Raises:
        InputError: the file is missing, truncated or corrupted, or does not fit (see `load_into`).
    """
    tensors = load_tensors(path)
    check_tensors(module.state_dict(), tensors, path)
    del tensors  # what the check read of the file need not stay in memory
    tensors = load_tensors(path)
    own = module.state_dict()
    large = {n: t for n, t in tensors.items() if t.nbytes >= _MAPPED and t.dtype == own[n].dtype}
    module.load_state_dict(large, strict=False, assign=True)
    module.load_state_dict({n: t for n, t in tensors.items() if n not in large}, strict=False)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a module's parameters and buffers.

    Raises:
        InputError: a tensor is missing, left over, of another shape or type, or not finite.
    """
    check_tensors(module.state_dict(), tensors, where)
    module.load_state_dict(tensors)


def check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Make sure that tensors are those that are expected, but for their values, and finite.

    Raises:
        InputError: a tensor is missing, left over, of another shape or type, or not finite.
    """
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise InputError(
            "a checkpoint does not fit its model", where=where, found=f"missing {missing}, left over {extra}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                "a tensor has another shape than its model",
                where=f"{where}, tensor {name}",
                found=tuple(tensor.shape),
                allowed=tuple(expected[name].shape),
                fix="is it another run's file?",
            )
        if tensor.dtype != expected[name].dtype:
            raise InputError(
                "a tensor has another type than its model",
                where=f"{where}, tensor {name}",
                found=tensor.dtype,
                allowed=expected[name].dtype,
            )
        bad = _not_finite(tensor) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(
                "a tensor holds NaN or infinity",
                where=f"{where}, tensor {name}",
                found=f"{bad} of {tensor.numel()} values",
            )


def _not_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite."""
    flat = tensor.reshape(-1)
    return sum(int((~flat[start : start + _COPIED].isfinite()).sum()) for start in range(0, len(flat), _COPIED))
