"""AUC and group AUC of a graph, held against those of its source.

A pair of a click and a non-click is worth 1 / (P·N) of an AUC, which on a small split is more than any fixed tolerance;
and float32 roundings may turn a pair round whose scores are all but equal. So beside the tolerance of the value type,
what is allowed is what such pairs can come to: `Scores.reach`, every score moved as far as it has moved, at most by

    1e-5 · scale + 16 float32 roundings of the score,

a tenth of what `compare` allows a score by default. The graph of a sound bundle moves no score further, so it passes on
any split, with weights and with groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from amtl_export.compare import ROUNDINGS
from amtl_export.freezing.scores import Reach, Scores
from amtl_export.validation.verdict import Tolerances

#: Against how far scores lie apart.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Held:
    """One metric.

    Attributes:
        name: AUC or GAUC.
        difference: |graph's - source's|; NaN where the graph's is.
        allowed: that may be.
    """

    name: str
    difference: float
    allowed: float

    def problem(self, level: str) -> str:
        """What is wrong, and the tolerance that would have passed; empty if nothing is.

        Args:
            level: of ONNX Runtime's optimisations, in a word.
        """
        if self.difference <= self.allowed:
            return ""
        return (
            f"{self.name} differs by {self.difference:.3g} ({level}); allowed {self.allowed:.3g}; "
            f"auc_atol={self.difference * 1.01:.2g} would have passed"
        )


def held(
    expected: Scores, wanted: Scores, found: Scores, scale: float, tolerances: Tolerances, dtype: str
) -> list[Held]:
    """AUC and GAUC, those that the source has.

    Args:
        expected: the source's scores.
        wanted: the scores that the graph should give: with quantized numbers not the source's.
        found: the graph's.
        scale: how far `wanted` lies apart, as `compare` has it.
        tolerances: what may differ; a given `auc_atol` is all that may.
        dtype: of the bundle.
    """
    atols, more = (tolerances.auc_for(dtype), tolerances.gauc_for(dtype)), (0.0, 0.0)
    differences = found.auc - expected.auc, found.gauc - expected.gauc
    known = not math.isnan(wanted.auc) and not math.isnan(found.auc)
    if (
        tolerances.auc_atol is None
        and known
        and any(abs(own) > atol for own, atol in zip(differences, atols, strict=True))
    ):
        size = np.abs(np.where(np.isfinite(wanted.values), wanted.values, 0.0)).astype(np.float64)
        reach = wanted.reach(found.values, _ROUNDING * scale + ROUNDINGS * size)
        more = _side(differences[0], reach, 0), _side(differences[1], reach, 1)
    values = expected.auc, expected.gauc
    return [
        Held(name, abs(own), atol + beyond)
        for name, value, own, atol, beyond in zip(("AUC", "GAUC"), values, differences, atols, more, strict=True)
        if not math.isnan(value)
    ]


def _side(difference: float, reach: Reach, metric: int) -> float:
    """What may be lost where something is lost, and gained where something is gained."""
    return (reach.gains if difference > 0 else reach.losses)[metric]
