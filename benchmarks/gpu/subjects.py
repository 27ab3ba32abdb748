"""Who is timed: bundles and PyTorch, with requests on the device or in the machine's memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from card import Card
from torch import Tensor, nn

from amtl_export.runtime.bound import Bound
from amtl_export.runtime.predictor import load
from amtl_export.spec import Feed

_numbers = itertools.count(1)  # of CUDA graphs


class Resident:
    """A bundle, or a model of lookups alone; requests and answers stay on the device.

    Args:
        name: in tables and JSON.
        folder: with `model.onnx`.
        card: where it runs.
        graphs: whether each request's shapes become a CUDA graph.
        native: see `runtime.predictor.load`.
        output: the one that is wanted.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        card: Card,
        *,
        graphs: bool = True,
        native: bool | None = None,
        output: str = "probability",
    ) -> None:
        self.name = name
        self.bytes = sum(file.stat().st_size for file in folder.glob("model*"))
        self.graphs = graphs and card.kind == "cuda"
        self._outputs = [output]
        self.predictor = load(folder, provider=card.kind, native=native, cuda=card.options(graphs=self.graphs))

    def prepare(self, feed: Feed) -> Any:
        """A request that is there, with a graph of its own."""
        return Bound(self.predictor, feed, self._outputs, graph=next(_numbers) if self.graphs else None)

    def run(self, prepared: Any) -> Any:
        """Answer, and wait for it."""
        prepared.run()


class Copied(Resident):
    """The same; requests come from the machine's memory, and answers go back there."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.name += "-copied"
        self._bound: dict[int, Any] = {}

    def prepare(self, feed: Feed) -> Feed:
        """A request of a batch size that is bound once."""
        size = len(feed["ids"])
        if size not in self._bound:
            self._bound[size] = super().prepare(feed)
        return feed

    def run(self, prepared: Feed) -> Any:
        """Copy, answer, copy."""
        bound = self._bound[len(prepared["ids"])]
        bound.copy_in(prepared)
        bound.run()
        return bound.copy_out()


class Torch:
    """PyTorch, eager or compiled with CUDA graphs; requests and answers stay on the device, or are copied too."""

    def __init__(
        self, name: str, model: nn.Module, card: Card, *, compiled: bool = False, copied: bool = False
    ) -> None:
        self.name = f"{name}-copied" if copied else name
        self._card, self._copied = card, copied
        self._model: Any = model.eval().to(card.kind)
        self.bytes = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
        if compiled:
            self._model = torch.compile(self._model, mode="reduce-overhead", dynamic=False)

    def prepare(self, feed: Feed) -> Tensor:
        """Ids."""
        ids = torch.from_numpy(feed["ids"])
        return ids if self._copied else ids.to(self._card.kind)

    def run(self, prepared: Tensor) -> Any:
        """Answer, and wait for it."""
        with torch.inference_mode():
            answer = torch.sigmoid(self._model(prepared.to(self._card.kind), None, []))
            if self._copied:
                return answer.cpu().numpy()
        self._card.wait()
        return answer
