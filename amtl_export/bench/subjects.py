"""Who is timed: PyTorch dense, PyTorch with the selection network, ONNX dense, the bundle.

On a GPU, requests come from the machine's memory and answers go back there, whoever is timed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.data.output_names import probability_of
from amtl_export.errors import EnvironmentLacks
from amtl_export.freezing.flat import Flat
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.swap import thawed
from amtl_export.graph.inputs import as_request
from amtl_export.models.ctr import CtrModel
from amtl_export.models.fbe import FixedEmbedding
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.predictor import load
from amtl_export.runtime.session import Provider
from amtl_export.spec import Feed, TensorSpec


def check_torch(device: Provider) -> None:
    """Make sure that PyTorch has a device.

    Raises:
        EnvironmentLacks: it has not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks("PyTorch finds no GPU", found=torch.__version__, fix="a PyTorch for CUDA; or the CPU")


class TorchSubject:
    """A model in PyTorch eager mode, gradients off.

    Args:
        name: in tables.
        flat: the model; it is put in evaluation mode on the device.
        inputs: what it takes, in order.
        device: where it runs.
    """

    def __init__(self, name: str, flat: Flat, inputs: Sequence[TensorSpec], device: Provider = "cpu") -> None:
        self.name, self._device, self._inputs = name, device, tuple(inputs)
        self._model, self._call = flat.model.eval().to(device), flat.call
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self.bytes = sum(t.numel() * t.element_size() for t in tensors)

    def prepare(self, feed: Feed) -> list[Tensor]:
        """Tensors in the model's order."""
        return [torch.from_numpy(feed[spec.name]) for spec in self._inputs]

    def run(self, prepared: list[Tensor]) -> list[Tensor]:
        """Every output."""
        with torch.inference_mode():
            if self._device == "cpu":
                return list(self._call(self._model, prepared))
            return [t.cpu() for t in self._call(self._model, [t.to(self._device) for t in prepared])]


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
        self._outputs = _probabilities(bundle)
        self._predictor = load(bundle.path, provider=provider, threads=threads, native=native, cuda=cuda)

    def prepare(self, feed: Feed) -> Feed:
        """As the graph takes them: rows, or the candidates of the first row's request."""
        return self._predictor.prepare(as_request(feed, self._inputs))

    def run(self, prepared: Feed) -> Any:
        """Every output of a user's module, a run's probabilities, `[B]` each."""
        return self._predictor.answer(prepared, self._outputs)


def _probabilities(bundle: Bundle) -> list[str] | None:
    signature = bundle.signature
    return [probability_of(name) for name in signature.scores] if signature.source == "run" else None


def apart(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle copied to `folder`: subjects that share files find rows that the other one has just read."""
    shutil.copytree(bundle.path, folder)
    return open_bundle(folder)


def dense_torch(frozen: FrozenModel) -> Flat:
    """The frozen rows in ordinary embedding tables: what serving without any of this looks like."""
    if frozen.data is None:
        return Flat(thawed(frozen.module.model), frozen.module.call)
    whole = tuple(replace(field, dim=None) for field in frozen.config.embedded)
    config = replace(frozen.config, method="fbe", sparse=False, embedded=whole)
    model = CtrModel(config, [torch.from_numpy(v.counts) for v in frozen.vocabularies.values()])
    kept = {name: value for name, value in frozen.module.model.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=False)
    for path, table in frozen.tables.items():
        method = model.get_submodule(path)
        assert isinstance(method, FixedEmbedding)
        method.table.weight = torch.nn.Parameter(table.rows, requires_grad=False)
    return Flat(model.eval(), frozen.module.call)
