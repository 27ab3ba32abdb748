"""Typed, immutable settings of a model; each refuses what contradicts itself, printing what it got."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Feature = Literal["log_count", "log_rank", "sqrt_count"]
FEATURES: tuple[Feature, ...] = ("log_count", "log_rank", "sqrt_count")

#: Embedding methods that a model may have.
METHOD_NAMES = ("amtl", "aml", "amtl_nste", "mde", "autoemb", "cut", "fbe")

#: Methods whose selection networks learn how many leading dims an id keeps.
SELECTING = frozenset({"amtl", "aml", "amtl_nste"})

#: Methods that choose sizes of embeddings before training, or mix several: no field has a dim of its own there.
SIZING = frozenset({"mde", "autoemb"})

#: Backbones that a model may have.
BACKBONE_NAMES = ("dnn", "widedeep", "deepfm", "dcnv2", "autoint", "din")

#: Backbones whose logit also has a linear term: a weight for each id and number (Cheng et al., DLRS 2016).
WIDE = frozenset({"widedeep", "deepfm"})

#: Backbones that pool sequences by attention to the row of the field that they share (Zhou et al., KDD 2018).
ATTENDING = frozenset({"din"})

#: Sizes of backbones that are repeated, and how large they may be.
_MOST = {"cross_layers": 1000, "attention_layers": 1000, "attention_heads": 10_000, "attention_width": 100_000}

#: Of hidden layers.
WIDEST = 2**20

#: Blocks of a field, of mde, at most.
MOST_BLOCKS = 10_000

#: Epochs in which T goes to `temperature_end`.
ANNEALING_EPOCHS = 10


@dataclass(frozen=True)
class EmbeddedField:
    """A field with an embedding table.

    Attributes:
        name: as in the schema.
        size: V, reserved ids included.
        governed: whether the method chooses this field's dims.
        padding: the padding id of a multi-valued field; None for a single-valued one.
        pool: how the rows of a multi-valued field become one.
        shares: the single-valued field whose rows this multi-valued one uses: a sequence of that field's values.
        dim: numbers that a row of it has, at most; the rest of D is zero. None for D.
    """

    name: str
    size: int
    governed: bool = True
    padding: int | None = None
    pool: Literal["mean", "sum"] = "mean"
    shares: str | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"field {self.name}: size must be at least 1, got {self.size}")
        if self.padding is not None and not 0 <= self.padding < self.size:
            raise ValueError(f"field {self.name}: padding id {self.padding} is outside [0, {self.size})")
        if self.dim is not None and (self.dim < 1 or self.shares is not None):
            raise ValueError(f"field {self.name}: dim must be at least 1, and is its owner's if it shares rows")
        if self.shares is not None and self.padding != self.size - 1:
            raise ValueError(f"field {self.name}: a sequence pads with its last id, not {self.padding}")

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
        hidden: widths of the hidden layers of each of the two MLPs.
        temperature: T of t_hat = softmax(h / T); larger means softer gradients.
        norm: what the switch alpha = sigmoid(norm(q)) sees: the z-score of the log count over the
            field's vocabulary, or its min-max scaled to [-1, 1].
        temperature_end: T falls or grows to this, by the same factor each epoch, in the first ten; None keeps it.
        initial_ratio: r: the last bias starts as -4·|k + 1 - r·D| / D, so that ids begin near r·D dims;
            None keeps PyTorch's initial values.
    """

    features: tuple[Feature, ...] = ("log_count", "log_rank")
    hidden: tuple[int, ...] = (32,)
    temperature: float = 1.0
    norm: Literal["zscore", "minmax"] = "zscore"
    temperature_end: float | None = None
    initial_ratio: float | None = None

    def __post_init__(self) -> None:
        if not self.features or any(f not in FEATURES for f in self.features):
            raise ValueError(f"features must be some of {', '.join(FEATURES)}, got {list(self.features)}")
        for name, value in (("temperature", self.temperature), ("temperature_end", self.temperature_end)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.initial_ratio is not None and not 0 < self.initial_ratio <= 1:
            raise ValueError(f"initial_ratio must be above 0 and at most 1, got {self.initial_ratio}")
        if any(not 1 <= width <= WIDEST for width in self.hidden):
            raise ValueError(f"hidden widths must be positive, at most {WIDEST}, got {list(self.hidden)}")
        if self.norm not in ("zscore", "minmax"):
            raise ValueError(f"norm must be zscore or minmax, got {self.norm}")

    def temperature_at(self, epoch: int) -> float:
        """T of an epoch, counted from 1."""
        if self.temperature_end is None:
            return self.temperature
        done = min(epoch - 1, ANNEALING_EPOCHS - 1) / (ANNEALING_EPOCHS - 1)
        return float(self.temperature * (self.temperature_end / self.temperature) ** done)


@dataclass(frozen=True)
class MixedConfig:
    """MDE's popularity rule; see `models.mde.block_widths`.

    Attributes:
        blocks: of each governed field, at most.
        alpha: exponent of d = lambda·n^(-alpha).
        ratio: mean dims as a part of D that lambda is chosen for; None gives the smallest block D.
    """

    blocks: int = 4
    alpha: float = 0.3
    ratio: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= MOST_BLOCKS:
            raise ValueError(f"blocks must be in 1..{MOST_BLOCKS}, got {self.blocks}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be within [0, 1], got {self.alpha}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, got {self.ratio}")


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
        selection: AMTL's selection network; AutoEmb's controller takes its features and hidden widths.
        mixed: of mde.
        candidates: of autoemb, embedding sizes as parts of D; D itself is always one.
        sparse: whether the table's gradient is sparse (needs an optimizer that takes one).
        labels: names of several labels, each of which has a logit; none if there is one.
        ordered: whether the rows are written in a basis of their field, which the model keeps; `models.ordered`.
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
    mixed: MixedConfig = MixedConfig()
    candidates: tuple[float, ...] = (0.25, 0.5, 1.0)
    sparse: bool = False
    ordered: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if not self.embedded:
            raise ValueError("at least one embedded field is needed")
        kinds = [field.multi_valued for field in self.embedded]
        if kinds != sorted(kinds):
            raise ValueError("multi-valued fields come after single-valued ones")
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in 1..{most}, got {getattr(self, name)}")
        if any(not 1 <= width <= WIDEST for width in self.hidden):
            raise ValueError(f"hidden widths must be positive, at most {WIDEST}, got {list(self.hidden)}")
        for name, value in (("dropout", self.dropout), ("embedding_dropout", self.embedding_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if not self.candidates or any(not 0 < part <= 1 for part in self.candidates):
            raise ValueError(f"candidates must be above 0 and at most 1, got {list(self.candidates)}")
        if wide := next((field for field in self.embedded if field.dim is not None and field.dim > self.dim), None):
            raise ValueError(f"field {wide.name}: dim {wide.dim} is more than D = {self.dim}")
        for field, owner in zip(self.embedded, self.owners, strict=True):
            if self.embedded[owner].size != field.size:
                raise ValueError(f"field {field.name}: {field.size} ids, but {field.shares} has another number")

    @property
    def outputs(self) -> int:
        """T: logits that the model gives for an example."""
        return len(self.labels) or 1

    @property
    def owners(self) -> tuple[int, ...]:
        """For each of `embedded`, the position of the field whose rows it uses: its own, or that of `shares`.

        Raises:
            ValueError: `shares` names no single-valued field.
        """
        places = {field.name: i for i, field in enumerate(self.embedded)}
        single = {self.embedded[i].name for i in self.single}
        for field in self.embedded:
            if field.shares is not None and field.shares not in single:
                raise ValueError(f"field {field.name} shares the rows of {field.shares!r}, no single-valued field")
        return tuple(places[field.shares or field.name] for field in self.embedded)

    @property
    def widths(self) -> tuple[int, ...]:
        """For each of `embedded`, the numbers that its rows have at most."""
        return tuple(self.embedded[owner].dim or self.dim for owner in self.owners)

    @property
    def single(self) -> tuple[int, ...]:
        """Positions in `embedded` of the single-valued fields: the columns of the input `ids`."""
        return tuple(i for i, field in enumerate(self.embedded) if not field.multi_valued)

    @property
    def multi(self) -> tuple[int, ...]:
        """Positions in `embedded` of the multi-valued fields."""
        return tuple(i for i, field in enumerate(self.embedded) if field.multi_valued)

    @property
    def sequences(self) -> tuple[int, ...]:
        """Positions in `embedded` of the fields that share another's rows."""
        return tuple(i for i, field in enumerate(self.embedded) if field.shares is not None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
