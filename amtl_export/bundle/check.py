"""The checks that every export passes before its bundle appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from amtl_export.bundle.inputs import Feed, as_request, draw, one_request, without_candidates
from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.inputs import Input, model_inputs
from amtl_export.runtime.session import open_session

#: Largest |logit difference| that an export may have on its samples: a few roundings of float32.
LOGIT_TOLERANCE = 1e-4

_BATCHES = (0, 1, 2, 1000)


@dataclass(frozen=True)
class Checked:
    """What the checks found.

    Attributes:
        session: the optimised session, for the samples.
        parity: largest |logit difference| for each optimisation level.
    """

    session: Any
    parity: dict[str, float]


def torch_logits(frozen: FrozenModel, feed: Feed) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What PyTorch answers, float32 `[B]`."""
    tensors = [torch.from_numpy(feed[spec.name]) for spec in model_inputs(frozen.config)]
    ids = tensors.pop(0) if frozen.config.single else None
    numeric = tensors.pop(0) if frozen.config.numeric else None
    with torch.inference_mode():
        logits: np.ndarray[Any, np.dtype[np.float32]] = frozen.module(ids, numeric, tensors).numpy()
    return logits


def check_bundle(draft: Path, frozen: FrozenModel, inputs: Sequence[Input]) -> Checked:
    """onnx's own full check, then 0, 1, 2 and 1,000 drawn rows against PyTorch, optimised and not.

    Where fields are the request's, the rows are the candidates of one.

    Raises:
        ValidationFailed: the graph is not valid ONNX, or an answer differs.
    """
    model = draft / "model.onnx"
    try:
        onnx.checker.check_model(str(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValidationFailed("the exported graph is not valid ONNX", found=str(error).splitlines()[0]) from error
    parity = {}
    rng = np.random.default_rng(0)
    feeds = [draw(frozen.config, frozen.vocabularies, batch, rng) for batch in _BATCHES]
    rows = [one_request(feed, inputs) for feed in feeds]
    requests = [as_request(feed, inputs) for feed in rows]
    if any(spec.request for spec in inputs):  # no row of a request for no candidate says what the request's is
        requests[0] = without_candidates(requests[1], inputs)
    for level in ("optimized", "unoptimized"):
        session = open_session(model, optimized=level == "optimized", native=None if level == "optimized" else False)
        parity[level] = max(_difference(session, frozen, pair, level) for pair in zip(rows, requests, strict=True))
        if level == "optimized":
            best = session
    assert [spec.name for spec in inputs] == [i.name for i in best.get_inputs()]
    return Checked(best, parity)


def _difference(session: Any, frozen: FrozenModel, pair: tuple[Feed, Feed], level: str) -> float:
    rows, request = pair
    (logit,) = session.run(["logit"], request)
    expected = torch_logits(frozen, rows)
    batch = len(expected)
    if logit.shape != expected.shape:
        raise ValidationFailed(
            "the exported graph answers with another shape",
            where=f"batch {batch}, {level}",
            found=logit.shape,
        )
    difference = float(np.abs(logit - expected).max()) if batch else 0.0
    if not difference <= LOGIT_TOLERANCE:
        raise ValidationFailed(
            "the exported graph answers differently from PyTorch",
            where=f"batch {batch}, {level}",
            found=f"|logit difference| {difference:.3g}",
            allowed=LOGIT_TOLERANCE,
        )
    return difference
