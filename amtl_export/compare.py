"""How far answers are from what they should be: the one comparison of export and validate.

Equal infinities are equal, and so are two NaNs. A difference is held against how far the scores of an output lie apart,
not against the largest of them: a constant of 5,000 in front, or one score masked with -1e9, allows no more. What is
allowed of a number x is `tolerance · scale + 16 float32 roundings of x`, with

    scale = max(median |x - median x|, median |x| / 100),

both over the finite numbers of the output, each once, so that masks and padding have no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import ValidationFailed
from amtl_export.spec import Feed

#: Against how far scores lie apart.
TOLERANCE = 1e-4

#: The same for a model with layers in int8: a rounding before such a layer turns a quantized number over now and then,
#: which is then a whole step off.
INT8_TOLERANCE = 1e-2

#: Of a number itself: what sums in another order come to.
ROUNDINGS = 16 * float(np.finfo(np.float32).eps)

#: Least scale: a sigmoid of float32 is not more exact than 1e-7, however small it is.
_LEAST = 1e-3


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output.

    Attributes:
        output: its name.
        absolute: largest |difference|; infinite where one is NaN or infinite and the other is not.
        scale: see above.
        relative: largest (|difference| - roundings) / scale: what a tolerance is held against.
        row: where it is, on the first axis.
        expected: the number there, and answered likewise.
        nans: numbers that are NaN on both sides.
    """

    output: str
    absolute: float
    scale: float
    relative: float
    row: int
    expected: float
    answered: float
    nans: int

    def __str__(self) -> str:
        return (
            f"output {self.output} differs by {self.absolute:.3g} at row {self.row}: PyTorch {self.expected:.6g}, "
            f"the graph {self.answered:.6g}"
        )


def compare(expected: Feed, answered: Feed, scales: Mapping[str, float] | None = None) -> list[Difference]:
    """The largest difference of every output.

    Args:
        expected: output → what PyTorch answers.
        answered: output → what the graph answers.
        scales: output → its scale; None takes it from what is expected, which takes more than a few examples.

    Raises:
        ValidationFailed: an output is missing or has another shape.
    """
    differences = []
    for name, wanted in expected.items():
        if name not in answered:
            raise ValidationFailed("the graph lacks an output", found=name, allowed=", ".join(answered))
        if wanted.shape != answered[name].shape:
            raise ValidationFailed(
                "the graph answers with another shape",
                where=f"output {name}",
                found=answered[name].shape,
                allowed=wanted.shape,
            )
        differences.append(_difference(name, wanted, answered[name], (scales or {}).get(name)))
    return differences


def _difference(
    name: str, expected: npt.NDArray[np.generic], answered: npt.NDArray[np.generic], scale: float | None
) -> Difference:
    wide, found = expected.astype(np.float64), answered.astype(np.float64)
    nans = np.isnan(wide) & np.isnan(found)
    with np.errstate(invalid="ignore"):
        apart = np.where((wide == found) | nans, 0.0, np.abs(wide - found))
    apart = np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
    if not apart.size:
        return Difference(name, 0.0, 1.0, 0.0, 0, 0.0, 0.0, 0)
    scale = scale_of(wide) if scale is None else scale
    rounding = ROUNDINGS * np.where(np.isfinite(wide), np.abs(wide), 0.0)
    relative = np.maximum(apart - rounding, 0.0) / scale
    at = np.unravel_index(int(relative.argmax() if relative.any() else apart.argmax()), apart.shape)
    row = int(at[0]) if apart.ndim else 0
    return Difference(
        name, float(apart.max()), scale, float(relative.max()), row, float(wide[at]), float(found[at]), int(nans.sum())
    )


def scale_of(scores: npt.NDArray[Any]) -> float:
    """How far the scores of an output lie apart, with a floor for those that are all alike."""
    finite = np.unique(scores[np.isfinite(scores)]).astype(np.float64)  # each once: masks and padding are many
    if not finite.size:
        return 1.0
    spread = float(np.median(np.abs(finite - np.median(finite))))
    return max(spread, float(np.median(np.abs(finite))) / 100, _LEAST)
