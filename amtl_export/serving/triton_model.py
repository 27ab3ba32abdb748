"""The model for Triton's Python backend.

It is copied as `model.py` into each version, beside the parts of amtl-export that it needs; the server's Python needs
numpy and onnxruntime.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend  # Triton's own, there only inside it


class TritonPythonModel:
    """A bundle; see `amtl_export.runtime.predictor`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle of this version, with this version's own copy of amtl-export."""
        version = Path(args["model_repository"]) / args["model_version"]
        sys.path.insert(0, str(version))
        from amtl_export.errors import InputError
        from amtl_export.runtime.predictor import load

        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        provider, native = parameters["provider"], {"true": True, "false": False}[parameters["native"]]
        assert provider in ("cpu", "cuda")
        self._predictor = load(
            version / "model.onnx", provider=provider, threads=int(parameters["intra_op_thread_count"]), native=native
        )
        self._batched = config["max_batch_size"] > 0
        self._wrong_input = InputError

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests in one run; where that fails, each for itself, so that only the wrong one hears of it."""
        try:
            return self._answer([self._feed(request) for request in requests])
        except Exception as error:
            if len(requests) == 1:
                error_type = backend.TritonError
                code = error_type.INVALID_ARG if isinstance(error, self._wrong_input) else error_type.INTERNAL
                return [backend.InferenceResponse(error=error_type(str(error), code))]
        return [response for request in requests for response in self.execute([request])]

    def _feed(self, request: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs of a request; its parameter `vocabulary_hash`, if it has one, says what its ids were encoded with."""
        if found := json.loads(request.parameters() or "{}").get("vocabulary_hash"):
            self._predictor.check_vocabulary(str(found))
        return {
            spec.name: backend.get_input_tensor_by_name(request, spec.name).as_numpy()
            for spec in self._predictor.inputs
        }

    def _answer(self, feeds: list[dict[str, np.ndarray[Any, Any]]]) -> list[Any]:
        if len(feeds) > 1 and not self._batched:
            raise ValueError("requests of this model are answered one by one")
        together = (
            {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]} if feeds[1:] else feeds[0]
        )
        answers = self._predictor.predict(together)
        ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds[:-1]])
        parts = {name: np.split(values, ends) for name, values in answers.items()}
        return [
            backend.InferenceResponse([backend.Tensor(name, own[i]) for name, own in parts.items()])
            for i in range(len(feeds))
        ]
