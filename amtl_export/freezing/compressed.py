"""What a compressed model was before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amtl_export.freezing.frozen import FrozenModel


@dataclass(frozen=True)
class Compressed:
    """What a compressed model is judged by.

    Attributes:
        original: the model that it was before; None where that is not at hand.
        max_auc_drop: how much AUC it may cost on the valid split; None where dims were given.
        report: what compressing it found, as the command writes it.
    """

    original: FrozenModel | None
    max_auc_drop: float | None
    report: dict[str, Any]
