"""The PyTorch layer that a layer in int8 is held against: the same whole numbers, the same roundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amtl_export.graph.linear_int8 import LEAST_SCALE, Activation, quantized, weight_scales
from amtl_export.graph.segments import Bases


class QuantizedLinear(nn.Module):
    """`nn.Linear` as `ai.amtl::LinearInt8` computes it, bit for bit.

    Args:
        linear: whose weight and bias it has, as they were trained.
        activation: how examples are quantized.
        folded: float32 `[outputs, columns]`, the weight with bases folded into it, where they are.
        places: int64 `[columns]`, which of the inputs that multiplies.
    """

    def __init__(
        self,
        linear: nn.Linear,
        activation: Activation,
        folded: npt.NDArray[np.float32] | None = None,
        places: npt.NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__()
        weight = linear.weight.detach().cpu().numpy() if folded is None else folded
        self.weight, self.bias, self.activation = linear.weight, linear.bias, activation
        self.register_buffer("numbers", torch.from_numpy(quantized(weight)).double(), persistent=False)
        self.register_buffer("scales", torch.from_numpy(weight_scales(weight)), persistent=False)
        self.register_buffer("places", None if places is None else torch.from_numpy(places), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[..., outputs]` from `[..., inputs]`, rows where bases are folded in."""
        return self.multiply(x if self.places is None else x[..., self.get_buffer("places")])

    def multiply(self, x: Tensor) -> Tensor:
        """float32 `[..., outputs]` from `[..., columns]`, what the layer of the graph multiplies."""
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


class Quantizable(NamedTuple):
    """What int8 can stand for.

    Attributes:
        weights: of plain linear layers inside a module that nothing else has, by name.
        bases: float32 `[N, k, D]`, those of its tables that may be folded into a weight, by name.
    """

    weights: Mapping[str, npt.NDArray[Any]]
    bases: Bases


def quantizable(module: nn.Module) -> Quantizable:
    """Layers that may be computed in int8.

    Args:
        module: frozen.
    """
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    weights = {
        f"{path}.weight": part.weight.detach().cpu().numpy()
        for path, part in module.named_modules()
        if path and type(part) is nn.Linear and not _is_watched(part) and owners[id(part.weight)] == 1
    }
    return Quantizable(weights, bases_of(module))


def bases_of(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Bases of a module's tables, by their names in it."""
    return {name: buffer.numpy() for name, buffer in module.named_buffers() if name.endswith(".bases")}


def quantize_layer(module: nn.Module, weight: str, activation: Activation, *folded: npt.NDArray[Any]) -> None:
    """Put a quantized layer in the place of a linear one.

    Args:
        module: changed in place.
        weight: name of the layer's weight.
        activation: how what it multiplies is quantized.
        folded: `folded` and `places` of `QuantizedLinear`, where bases are.
    """
    path = weight.rpartition(".")[0]
    linear = module.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    module.set_submodule(path, QuantizedLinear(linear, activation, *folded))


def _is_watched(module: nn.Module) -> bool:
    """Whether more than its forward runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"))
