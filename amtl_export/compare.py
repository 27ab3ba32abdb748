"""How far answers are from what they should be: the one comparison of export and validate.

Equal infinities are equal, and so are two NaNs. A difference is held against the size of the scores: what is allowed is
`tolerance · max(1, the largest finite magnitude expected)` of each output, since float32 sums carry roundings of their
largest terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amtl_export.errors import ValidationFailed
from amtl_export.spec import Feed

#: A few float32 roundings, against scores of about 1.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output.

    Attributes:
        output: its name.
        absolute: largest |difference|; infinite where one is NaN or infinite and the other is not.
        scale: max(1, largest finite magnitude expected).
        row: where it is, on the first axis.
        expected: the number there, and answered likewise.
        nans: numbers that are NaN on both sides.
    """

    output: str
    absolute: float
    scale: float
    row: int
    expected: float
    answered: float
    nans: int

    @property
    def relative(self) -> float:
        """Against the scale: what a tolerance is held against."""
        return self.absolute / self.scale

    def __str__(self) -> str:
        return (
            f"output {self.output} differs by {self.absolute:.3g} at row {self.row}: PyTorch {self.expected:.6g}, "
            f"the graph {self.answered:.6g}"
        )


def compare(expected: Feed, answered: Feed) -> list[Difference]:
    """The largest difference of every output.

    Args:
        expected: output → what PyTorch answers.
        answered: output → what the graph answers.

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
        differences.append(_difference(name, wanted, answered[name]))
    return differences


def _difference(name: str, expected: npt.NDArray[np.generic], answered: npt.NDArray[np.generic]) -> Difference:
    wide, found = expected.astype(np.float64), answered.astype(np.float64)
    nans = np.isnan(wide) & np.isnan(found)
    with np.errstate(invalid="ignore"):
        apart = np.where((wide == found) | nans, 0.0, np.abs(wide - found))
    apart = np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
    if not apart.size:
        return Difference(name, 0.0, 1.0, 0, 0.0, 0.0, 0)
    at = np.unravel_index(int(apart.argmax()), apart.shape)
    finite = np.abs(wide[np.isfinite(wide)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    row = int(at[0]) if apart.ndim else 0
    return Difference(name, float(apart[at]), scale, row, float(wide[at]), float(found[at]), int(nans.sum()))
