"""The PyTorch layer that a layer in int8 is held against: the same whole numbers, the same roundings."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from amtl_export.graph.linear_int8 import LEAST_SCALE, Activation, quantized, weight_scales


class QuantizedLinear(nn.Module):
    """`nn.Linear` as `ai.amtl::LinearInt8` computes it, bit for bit.

    Args:
        linear: whose weight and bias it has, as they were trained.
        activation: how examples are quantized.
    """

    def __init__(self, linear: nn.Linear, activation: Activation) -> None:
        super().__init__()
        self.weight, self.bias, self.activation = linear.weight, linear.bias, activation
        exact = linear.weight.detach().cpu().numpy()
        self.register_buffer("numbers", torch.from_numpy(quantized(exact)).double(), persistent=False)
        self.register_buffer("scales", torch.from_numpy(weight_scales(exact)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[..., outputs]` from `[..., inputs]`."""
        rows = x.reshape(-1, x.shape[-1])
        magnitude = rows.abs() if self.activation.zero else rows.clamp(min=0)
        largest = magnitude.amax(dim=1) if len(rows) else magnitude.sum(dim=1)
        scale = (largest * float(self.activation.unit)).clamp(min=LEAST_SCALE).unsqueeze(1)
        q = (rows / scale).round().clamp(-self.activation.zero, 255 - self.activation.zero)
        sums = (q.double() @ self.get_buffer("numbers").T).float()  # whole numbers: exact, then rounded once
        scale = torch.where(rows.sum(dim=1, keepdim=True).isfinite(), scale, torch.nan)
        y = sums * scale * self.get_buffer("scales")
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], -1)


def quantizable(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Weights of plain linear layers inside a module that nothing else has, by name: what int8 can stand for.

    Args:
        module: frozen.
    """
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        f"{path}.weight": part.weight.detach().cpu().numpy()
        for path, part in module.named_modules()
        if path and type(part) is nn.Linear and not _is_watched(part) and owners[id(part.weight)] == 1
    }


def quantize_layers(module: nn.Module, layers: dict[str, Activation]) -> None:
    """Put quantized layers in the places of linear ones.

    Args:
        module: changed in place.
        layers: weight → how what it multiplies is quantized.
    """
    for weight, activation in layers.items():
        path = weight.rpartition(".")[0]
        linear = module.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        module.set_submodule(path, QuantizedLinear(linear, activation))


def _is_watched(module: nn.Module) -> bool:
    """Whether more than its forward runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"))
