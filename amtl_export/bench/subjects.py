"""Who is timed: PyTorch dense, PyTorch with the selection network, ONNX dense, the bundle.

On a GPU, requests come from the machine's memory and answers go back there, whoever is timed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.inputs import Feed, as_request
from amtl_export.errors import EnvironmentLacks
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.inputs import model_inputs
from amtl_export.models.ctr import CtrModel
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.predictor import load
from amtl_export.runtime.session import Provider


def check_torch(device: Provider) -> None:
    """Make sure that PyTorch has a device.

    Raises:
        EnvironmentLacks: it has not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks("PyTorch finds no GPU", found=torch.__version__, fix="a PyTorch for CUDA; or the CPU")


@dataclass
class TorchSubject:
    """A model in PyTorch eager mode, gradients off."""

    name: str
    model: CtrModel
    device: Provider = "cpu"

    def __post_init__(self) -> None:
        self.model.eval().to(self.device)
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self.bytes = sum(t.numel() * t.element_size() for t in tensors)

    def prepare(self, feed: Feed) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
        """(ids, numeric, multi)."""
        tensors = {spec.name: torch.from_numpy(feed[spec.name]) for spec in model_inputs(self.model.config)}
        ids, numeric = tensors.pop("ids", None), tensors.pop("numeric", None)
        return ids, numeric, list(tensors.values())

    def run(self, prepared: tuple[Tensor | None, Tensor | None, list[Tensor]]) -> Tensor:
        """Probabilities `[B]`."""
        with torch.inference_mode():
            if self.device == "cpu":
                return torch.sigmoid(self.model(*prepared))
            ids, numeric, multi = prepared
            there = [None if t is None else t.to(self.device) for t in (ids, numeric)]
            return torch.sigmoid(self.model(*there, [t.to(self.device) for t in multi])).cpu()


class OnnxSubject:
    """A bundle as servers run it; see `runtime.predictor.load` for `native` and `cuda`."""

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        provider: Provider,
        threads: int,
        native: bool | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        self.name = name
        self.bytes = bundle.bytes()
        self._inputs = bundle.inputs
        self._predictor = load(bundle.path, provider=provider, threads=threads, native=native, cuda=cuda)

    def prepare(self, feed: Feed) -> Feed:
        """As the graph takes them: rows, or the candidates of the first row's request."""
        return self._predictor.prepare(as_request(feed, self._inputs))

    def run(self, prepared: Feed) -> Any:
        """Probabilities `[B]`."""
        return self._predictor.answer(prepared, ["probability"])["probability"]


def apart(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle copied to `folder`: subjects that share files find rows that the other one has just read."""
    shutil.copytree(bundle.path, folder)
    return open_bundle(folder)


def dense_torch(frozen: FrozenModel) -> CtrModel:
    """The frozen rows in an ordinary embedding table: what serving without any of this looks like."""
    config = replace(frozen.config, method="fbe", sparse=False)
    model = CtrModel(config, [torch.from_numpy(v.counts) for v in frozen.vocabularies.values()])
    kept = {name: value for name, value in frozen.module.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=False)
    for path, table in frozen.tables.items():
        method = model.get_submodule(path)
        assert isinstance(method, FixedEmbedding)
        method.table.weight = torch.nn.Parameter(table.rows, requires_grad=False)
    return model.eval()
