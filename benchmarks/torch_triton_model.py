"""What a user of Triton writes for PyTorch: an exported program behind the Python backend, requests put together.

`serving.py` copies it as `model.py` beside `model.pt2`; the environment variable TORCH_SITE says where torch is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend  # Triton's own, there only inside it


class TritonPythonModel:
    """The dense model in PyTorch, one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the program."""
        sys.path.append(os.environ["TORCH_SITE"])
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        program = torch.export.load(str(Path(args["model_repository"]) / args["model_version"] / "model.pt2"))
        self._model = program.module()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests in one run."""
        ids = [backend.get_input_tensor_by_name(request, "ids").as_numpy() for request in requests]
        with self._torch.inference_mode():
            logits = self._model(self._torch.from_numpy(np.concatenate(ids)), None, [])
            answers = {"logit": logits.numpy(), "probability": self._torch.sigmoid(logits).numpy()}
        ends = np.cumsum([len(own) for own in ids[:-1]])
        parts = {name: np.split(values, ends) for name, values in answers.items()}
        return [
            backend.InferenceResponse([backend.Tensor(name, own[i]) for name, own in parts.items()])
            for i in range(len(requests))
        ]
