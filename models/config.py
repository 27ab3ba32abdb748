"""Typed, immutable settings of a model; each refuses what contradicts itself, printing what it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Feature = Literal["log_count", "log_rank", "sqrt_count"]
FEATURES: tuple[Feature, ...] = ("log_count", "log_rank", "sqrt_count")


@dataclass(frozen=True)
class EmbeddedField:
    """A field with an embedding table.

    Attributes:
        name: as in the schema.
        size: V, reserved ids included.
        governed: whether the method chooses this field's dims.
        padding: the padding id of a multi-valued field; None for a single-valued one.
        pool: how the rows of a multi-valued field become one.
    """

    name: str
    size: int
    governed: bool = True
    padding: int | None = None
    pool: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"field {self.name}: size must be at least 1, got {self.size}")
        if self.padding is not None and not 0 <= self.padding < self.size:
            raise ValueError(f"field {self.name}: padding id {self.padding} is outside [0, {self.size})")

    @property
    def multi_valued(self) -> bool:
        """Whether the field has its own input `[B, L]`."""
        return self.padding is not None


@dataclass(frozen=True)
class NumericField:
    """A numeric field and its training statistics, taken after `transform`."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    transform: Literal["none", "log1p"] = "none"

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"field {self.name}: std must be positive, got {self.std}")


@dataclass(frozen=True)
class SelectionConfig:
    """AMTL's selection network (Yan et al., CIKM 2021; what the paper leaves open is chosen here).

    Attributes:
        features: the frequency features s of a value, each z-scored over the field's vocabulary.
        hidden: widths of the hidden layers of each of the two perceptrons.
        temperature: T of t_hat = softmax(h / T); larger means softer gradients.
        norm: what the switch alpha = sigmoid(norm(q)) sees: the z-score of the log count over the
            field's vocabulary, or its min-max scaled to [-1, 1].
    """

    features: tuple[Feature, ...] = ("log_count", "log_rank")
    hidden: tuple[int, ...] = (32,)
    temperature: float = 1.0
    norm: Literal["zscore", "minmax"] = "zscore"

    def __post_init__(self) -> None:
        if not self.features or any(f not in FEATURES for f in self.features):
            raise ValueError(f"features must be some of {', '.join(FEATURES)}, got {list(self.features)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden widths must be positive, got {list(self.hidden)}")
        if self.norm not in ("zscore", "minmax"):
            raise ValueError(f"norm must be zscore or minmax, got {self.norm}")


@dataclass(frozen=True)
class ModelConfig:
    """Everything a `CtrModel` is built from, beside the counts of the ids.

    Attributes:
        embedded: single-valued fields first, then multi-valued ones.
        numeric: numeric fields.
        dim: D, floats of a full row.
        method: which embedding method.
        backbone: what turns rows into a logit.
        hidden: widths of the backbone's hidden layers.
        dropout: probability, on the outputs of hidden layers, in training only.
        embedding_dropout: probability, on the embedded values, in training only.
        cross_layers: of dcnv2.
        attention_layers: of autoint, each with `attention_heads` heads of `attention_width`.
        selection: AMTL's selection network.
        sparse: whether the table's gradient is sparse (needs SparseAdam).
    """

    embedded: tuple[EmbeddedField, ...]
    numeric: tuple[NumericField, ...] = ()
    dim: int = 16
    method: str = "amtl"
    backbone: str = "dnn"
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    cross_layers: int = 3
    attention_layers: int = 2
    attention_heads: int = 2
    attention_width: int = 16
    selection: SelectionConfig = SelectionConfig()
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if not self.embedded:
            raise ValueError("at least one embedded field is needed")
        kinds = [field.multi_valued for field in self.embedded]
        if kinds != sorted(kinds):
            raise ValueError("multi-valued fields come after single-valued ones")
        for name, value in (("dropout", self.dropout), ("embedding_dropout", self.embedding_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")

    @property
    def single(self) -> tuple[int, ...]:
        """Positions in `embedded` of the single-valued fields: the columns of the input `ids`."""
        return tuple(i for i, field in enumerate(self.embedded) if not field.multi_valued)

    @property
    def multi(self) -> tuple[int, ...]:
        """Positions in `embedded` of the multi-valued fields."""
        return tuple(i for i, field in enumerate(self.embedded) if field.multi_valued)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, readable by `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Rebuild from `to_json`.

        Raises:
            TypeError: an unknown or missing key.
            ValueError: a value out of range.
        """
        given = dict(values)
        given["embedded"] = tuple(EmbeddedField(**field) for field in given["embedded"])
        given["numeric"] = tuple(NumericField(**field) for field in given["numeric"])
        given["hidden"] = tuple(given["hidden"])
        selection = dict(given["selection"])
        selection["features"] = tuple(selection["features"])
        selection["hidden"] = tuple(selection["hidden"])
        given["selection"] = SelectionConfig(**selection)
        return cls(**given)
