"""What compressing a model found, as the command writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from amtl_export.tables.values import ValueType

BasisKind = Literal["folded", "shared", "projection"]
MetricKind = Literal["gradients", "weights", "none"]


@dataclass(frozen=True)
class FieldOrder:
    """One field in principal order.

    Attributes:
        dim: D.
        rows: V.
        avg_dim_before: mean dims over its rows, padding left out, before the cut.
        avg_dim: the same behind it.
        longest: dims of its longest row.
        effective_rank: exp of the entropy of the energies' shares.
        energy: share of the damage that is kept with the first 1, 2, … D numbers of every row.
        basis: where the basis went.
        metric: what the damage of an error was judged by.
        bytes_before: of its rows, dense, in fp32.
        bytes_after: of its kept numbers, in fp32.
    """

    dim: int
    rows: int
    avg_dim_before: float
    avg_dim: float
    longest: int
    effective_rank: float
    energy: list[float]
    basis: BasisKind
    metric: MetricKind
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Point:
    """One cut that was tried.

    Attributes:
        basis: where the bases went.
        dtype: of the stored numbers.
        avg_dim_ratio: mean dims of the fields that are cut, over D.
        bytes: of all tables as they would be stored, and of projections.
        auc_valid: None without labelled examples; of several labels, the first one's before, less what the one loses
            whose AUC falls most.
        outputs: score of each of several labels → its AUC.
        chosen: whether it is the one taken.
    """

    basis: BasisKind
    dtype: ValueType
    avg_dim_ratio: float
    bytes: int
    auc_valid: float | None
    outputs: dict[str, float] = field(default_factory=dict)
    chosen: bool = False


@dataclass(frozen=True)
class Placement:
    """One way to place the bases.

    Attributes:
        kind: what it does for fields that are not read by linear layers alone.
        dtype: of the stored numbers at its best cut.
        avg_dim_ratio: mean dims at its best cut.
        bytes: there.
        projection_bytes: of these, of the projections that stay in the graph.
        projection_multiply_adds: what they cost for one example.
        auc_valid: of `Point`; None without labelled examples.
        chosen: whether it is the one taken.
    """

    kind: BasisKind
    dtype: ValueType
    avg_dim_ratio: float
    bytes: int
    projection_bytes: int
    projection_multiply_adds: int
    auc_valid: float | None
    chosen: bool = False


@dataclass(frozen=True)
class CompressReport:
    """What compressing a model found.

    Attributes:
        fields: that were cut.
        left: table or field → why it is as it was.
        requests: examples whose gradients were looked at.
        avg_dim_ratio: mean dims of the cut fields, over D, weighted by rows.
        bytes_before: of all tables, dense, in fp32.
        bytes_after: of all tables, ragged or dense, whichever is smaller, in the value type, and of projections.
        auc_valid_before: of the model as it was given.
        auc_valid_after: of the compressed one, its numbers stored so.
        outputs: score of each of several labels → its `auc_valid_before` and `auc_valid_after`.
        weighted: whether these AUCs are; weights have no say in directions, gradients and counts.
        dtype: of the stored numbers; `export` with `auto` takes it over for the target native.
        max_auc_drop: that was allowed; None where dims were given.
        dim_budget: that was given; None where a drop was.
        max_abs_logit_diff_before_cut: how far answers moved by the change of bases alone.
        answers_after_cut: how far they moved by the cut and by how numbers are stored: `examples`, `max_abs_diff`,
            `mean_abs_diff`, and `std`, how far answers lie apart.
        placements: the ways to place the bases that were compared.
        curve: cuts that were tried.
    """

    fields: dict[str, FieldOrder]
    left: dict[str, str]
    requests: int
    avg_dim_ratio: float
    bytes_before: int
    bytes_after: int
    auc_valid_before: float | None
    auc_valid_after: float | None
    weighted: bool
    dtype: ValueType
    max_auc_drop: float | None
    dim_budget: float | None
    max_abs_logit_diff_before_cut: float
    answers_after_cut: dict[str, float]
    placements: list[Placement]
    curve: list[Point]
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `basis` says of each field where its basis went."""
        return asdict(self) | {"basis": {name: own.basis for name, own in self.fields.items()}}
