"""A model of the zoo: how it is built, what it is asked, which tables it has; and ids as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]  # a parameter of forward → a tensor, or a dict, list or tuple of tensors


@dataclass(frozen=True)
class Model:
    """One model of a library, with random weights."""

    library: str
    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Inputs]
    outputs: tuple[str, ...] | None = None
    dynamic_shapes: Inputs | None = None

    @property
    def key(self) -> str:
        """`library/name`, unique."""
        return f"{self.library}/{self.name}"

    def module(self, seed: int = 0) -> nn.Module:
        """Built from the seed, in evaluation mode, its large tables drawn from N(0, 0.5²) so that every row tells."""
        torch.manual_seed(seed)
        module = self.build()
        torch.manual_seed(seed)
        with torch.no_grad():
            for table in tables(module).values():
                table.weight.normal_(std=0.5)
                if table.padding_idx is not None:
                    table.weight[table.padding_idx] = 0
        return module.eval()

    def inputs(self, rows: int, seed: int = 0) -> Inputs:
        """A batch drawn from the seed."""
        torch.manual_seed(seed)
        return self.batch(rows)


def tables(module: nn.Module) -> dict[str, Any]:
    """Dotted name → embedding or bag of at least 50 rows of 4 floats. One table under two names is listed once."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    found = {name: part for name, part in module.named_modules() if isinstance(part, kinds)}
    return {name: part for name, part in found.items() if part.num_embeddings > 50 and part.embedding_dim >= 4}


def zipf(size: int, *shape: int, first: int = 0) -> Tensor:
    """Ids in `[first, size)`, int64, by a Zipf law of exponent 1: the log of an id is about uniform."""
    return ((size - first + 1) ** torch.rand(shape)).long().clamp(1, size - first) + first - 1


def history(size: int, rows: int, length: int, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Ids `[rows, length]` in `[1, size)`, zero past each example's end, and the lengths `[rows]`, at least `least`."""
    lengths = torch.randint(least, length + 1, (rows,))
    return zipf(size, rows, length, first=1) * (torch.arange(length) < lengths[:, None]), lengths
