"""safetensors files, read with errors that name the file and the tensor."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from amtl_export.errors import EnvironmentLacks, InputError


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to one file.

    Raises:
        EnvironmentLacks: the file cannot be written (disk full, no permission).
    """
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    try:
        path.write_bytes(safetensors.torch.save(plain))
    except safetensors.SafetensorError as error:
        raise EnvironmentLacks("tensors cannot be written", where=path, found=error) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: the file is missing, truncated or corrupted.
    """
    if not path.is_file():
        raise InputError("a file is missing", where=path, fix="is the folder complete? train or freeze again")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(
            "a checkpoint is truncated or corrupted",
            where=path,
            found=error,
            fix="restore it from a copy, or train again",
        ) from None


def load_into(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Fill a module's parameters and buffers.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or not finite.
    """
    expected = module.state_dict()
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
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise InputError(
                "a tensor holds NaN or infinity",
                where=f"{where}, tensor {name}",
                found=f"{bad} of {tensor.numel()} values",
            )
    module.load_state_dict(tensors)
