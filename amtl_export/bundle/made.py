"""What `report.json` says of how a bundle was made, as far as people are shown it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class CurvePoint(_Part):
    """A cut that was tried."""

    bytes: NonNegativeInt
    auc_valid: float | None
    chosen: bool


class CompressedField(_Part):
    """A table that was rewritten.

    Attributes:
        dim: D before it was cut.
        energy: share of what its rows matter to the model that the leading 1, 2, … numbers hold.
    """

    dim: NonNegativeInt
    energy: list[float]


class Compressed(_Part):
    """What compressing came to.

    Attributes:
        fields: field → how it was rewritten.
        left: table or field → why it is as it was.
        bytes_before: of all tables, fp32.
        auc_valid_before: None without labelled examples.
        curve: the cuts that were tried.
    """

    fields: dict[str, CompressedField]
    left: dict[str, str]
    bytes_before: NonNegativeInt
    auc_valid_before: float | None
    curve: list[CurvePoint]


class Made(_Part):
    """How a bundle was made.

    Attributes:
        origin: the run or module, its method, backbone, seed and data.
        versions: package → version.
        onnxruntime: version that the samples were computed with.
        bytes_dense: of all tables, dense.
        ops_traced: operator → nodes of the graph as PyTorch wrote it.
        ops: operator → nodes of the graph.
        compressed: of a compressed model, the cuts that were tried.
    """

    origin: dict[str, str | int | None]
    versions: dict[str, str]
    onnxruntime: str
    bytes_dense: NonNegativeInt
    ops_traced: dict[str, NonNegativeInt]
    ops: dict[str, NonNegativeInt]
    compressed: Compressed | None
