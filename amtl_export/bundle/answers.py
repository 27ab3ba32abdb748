"""Whether a bundle answers its own sample: what is asked of it before anything else runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.bundle.samples import read_test_data
from amtl_export.bundle.signature import Signature
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.runtime.apart import run_apart
from amtl_export.runtime.predictor import Predictor
from amtl_export.runtime.session import onnxruntime


def check_answers(bundle: Path) -> None:
    """Let a bundle answer its sample in a process of its own, where a graph that ends the process ends nothing else.

    Args:
        bundle: its folder, opened before.

    Raises:
        InputError: the graph cannot be loaded or fails, or a sample is missing or cannot be read.
        ValidationFailed: it does not answer its sample as it did when it was exported.
        EnvironmentLacks: ONNX Runtime is missing.
    """
    onnxruntime()
    sample, wanted = read_test_data(bundle, "input"), read_test_data(bundle, "output")
    answers = run_apart(bundle / "model.onnx", {"sample": sample})["sample"]
    if isinstance(answers, str):
        raise InputError("the graph fails on its own sample", where=bundle, found=answers, fix="export it again")
    for name, expected in wanted.items():
        found = answers.get(name)
        if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
            has = None if found is None else f"{found.dtype} {list(found.shape)}"
            wrong = f"{has}, the sample has {expected.dtype} {list(expected.shape)}"
        elif not _close(found, expected):
            wrong = f"difference {_farthest(found, expected):.3g}"
        else:
            continue
        raise ValidationFailed(
            "the bundle does not answer its sample as it did when it was exported",
            where=f"{bundle}, output {name}",
            found=wrong,
            fix="validate it against its run, which says more",
        )


def check_inputs(predictor: Predictor, signature: Signature) -> None:
    """Refuse a bundle whose graph takes other inputs than its signature says.

    Raises:
        InputError: a name, a type or a number of dimensions differs.
    """
    graphs, said = ({(s.name, s.dtype, len(s.shape)) for s in own} for own in (predictor.inputs, signature.inputs))
    if graphs != said:
        raise InputError(
            "the graph takes other inputs than the bundle's signature says",
            where=predictor.bundle / "model.onnx",
            found=", ".join(sorted(name for name, _, _ in graphs ^ said)),
            fix="export it again",
        )


def _close(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if expected.dtype.kind not in "fiub":
        return bool(np.array_equal(found, expected))
    return bool(np.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True))


def _farthest(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    with np.errstate(all="ignore"):
        return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0))
