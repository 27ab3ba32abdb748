"""What a training run is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from amtl_export.errors import InputError
from amtl_export.models.config import BACKBONE_NAMES, METHOD_NAMES, MOST_BLOCKS, SELECTING, WIDEST, SelectionConfig
from amtl_export.typed import typed

#: Above this many numbers, V·D, the table's gradient is sparse unless said otherwise: 200,000 rows of 16.
SPARSE_ABOVE = 3_200_000

#: What PyTorch takes, or memory of any machine.
_AT_MOST = {
    "dim": 2**16,
    "batch_size": 2**31 - 1,
    "mde_blocks": MOST_BLOCKS,
    "limit_rows": 2**63 - 1,
    "seed": 2**63 - 1,
}

#: What steps on tables.
TABLE_OPTIMIZERS = ("adam", "rowwise-adagrad")


@dataclass(frozen=True)
class TrainConfig:
    """A training run; together with the data and the machine it determines every bit of the result.

    Attributes:
        data: named source, or a folder with a `schema.toml`.
        path: folder of a named source's files.
        method: embedding method.
        backbone: what turns rows into a logit.
        dim: D.
        epochs: at most this many passes over the training split; 0, after a warm start, takes its weights as they are.
        patience: stop after this many epochs without a better validation AUC.
        batch_size: examples a step.
        lr: Adam's learning rate.
        table_optimizer: of the table: Adam, or Adagrad with one number for each row.
        table_lr: learning rate of the table; `lr` when None.
        lr_decay: the learning rate is multiplied by this after an epoch without a better validation AUC.
        selection_lr: of the selection network and AutoEmb's controller; `lr` when None.
        selection_decay: L2 of the selection network and AutoEmb's controller.
        weight_decay: L2 of the backbone.
        embedding_decay: L2 of the table; with sparse gradients, of the rows that a batch reads.
        hidden: widths of the backbone's hidden layers.
        dropout: on hidden outputs.
        embedding_dropout: on embedded values.
        selection: AMTL's selection network; AutoEmb's controller takes features and hidden widths.
        mde_blocks: frequency blocks of each governed field, of mde.
        mde_alpha: exponent of mde's popularity rule.
        candidates: embedding sizes of autoemb as parts of D.
        dim_budget: R: the mean dims of the governed fields end at R·D or below; None for no budget.
        sparse: sparse table gradients, whose rows alone a step touches; None: where V·D is above `SPARSE_ABOVE`.
        limit_rows: use the first rows only.
        warm_start: folder of the run whose embeddings and hidden layers are the start.
        warm_order: of its rows, for methods that select dims: `principal` puts the table in principal order first, so
            that the leading numbers are those that matter; `as-is` takes rows as trained. None is `principal`, but
            for rows whose order an earlier selection has learned.
        select_on: the split whose batches the selection network learns from. With `valid`, it takes a step before each
            step of the weights, as AutoEmb's controller does.
        seed: of everything drawn.
    """

    data: Path | str
    path: Path | str | None = None
    method: str = "amtl"
    backbone: str = "dnn"
    dim: int = 16
    epochs: int = 40
    patience: int = 3
    batch_size: int = 2048
    lr: float = 1e-3
    table_optimizer: Literal["adam", "rowwise-adagrad"] = "adam"
    table_lr: float | None = None
    lr_decay: float = 1.0
    selection_lr: float | None = None
    selection_decay: float = 0.0
    weight_decay: float = 0.0
    embedding_decay: float = 0.0
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    embedding_dropout: float = 0.1
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    mde_blocks: int = 4
    mde_alpha: float = 0.3
    candidates: tuple[float, ...] = (0.25, 0.5, 1.0)
    dim_budget: float | None = None
    sparse: bool | None = None
    limit_rows: int | None = None
    warm_start: Path | str | None = None
    warm_order: Literal["principal", "as-is"] | None = None
    select_on: Literal["train", "valid"] = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "path", "warm_start"):
            if isinstance(place := getattr(self, name), Path):
                object.__setattr__(self, name, str(place))
        self._one_of("method", METHOD_NAMES)
        self._one_of("backbone", BACKBONE_NAMES)
        self._one_of("table_optimizer", TABLE_OPTIMIZERS)
        for name in ("dim", "patience", "batch_size"):
            self._at_least(name, 1)
        for name, most in _AT_MOST.items():
            if (getattr(self, name) or 0) > most:
                raise InputError(f"train: {name}", found=getattr(self, name), allowed=f"at most {most}")
        if any(not 1 <= width <= WIDEST for width in self.hidden):
            raise InputError("train: hidden", found=list(self.hidden), allowed=f"widths of 1 to {WIDEST}")
        self._at_least("epochs", 1 if self.warm_start is None else 0)
        if self.limit_rows is not None:
            self._at_least("limit_rows", 1)
        if not 0 < self.lr < 1:
            raise InputError("train: lr", found=self.lr, allowed="between 0 and 1")
        if self.table_lr is not None and not 0 < self.table_lr < 1:
            raise InputError("train: table_lr", found=self.table_lr, allowed="between 0 and 1")
        if not 0 < self.lr_decay <= 1:
            raise InputError("train: lr_decay", found=self.lr_decay, allowed="above 0, at most 1")
        if self.dim_budget is not None and not 1 / self.dim <= self.dim_budget <= 1:
            raise InputError("train: dim_budget", found=self.dim_budget, allowed=f"{1 / self.dim:.3g} (one dim) to 1")
        for name in ("dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"train: {name}", found=getattr(self, name), allowed="0 <= p < 1")
        self._at_least("mde_blocks", 1)
        if not 0 <= self.mde_alpha <= 1:
            raise InputError("train: mde_alpha", found=self.mde_alpha, allowed="0 to 1")
        if not self.candidates or any(not 0 < part <= 1 for part in self.candidates):
            raise InputError("train: candidates", found=list(self.candidates), allowed="parts of D: above 0, at most 1")
        for name in ("weight_decay", "embedding_decay", "selection_decay", "seed"):
            self._at_least(name, 0)
        self._check_selection()

    def _check_selection(self) -> None:
        """What only methods that select dims understand."""
        if self.warm_order not in (None, "principal", "as-is"):
            raise InputError("train: warm_order", found=repr(self.warm_order), allowed="principal, as-is")
        if self.select_on not in ("train", "valid"):
            raise InputError("train: select_on", found=repr(self.select_on), allowed="train, valid")
        selecting = ", ".join(sorted(SELECTING))
        if self.warm_order is not None and (self.warm_start is None or self.method not in SELECTING):
            found = f"method={self.method}, warm_start={self.warm_start}"
            raise InputError("train: warm_order", found=found, allowed=f"with warm_start and one of {selecting}")
        if self.select_on == "valid" and self.method not in SELECTING:
            raise InputError("train: select_on=valid", found=f"method={self.method}", allowed=selecting)

    def _one_of(self, name: str, allowed: Sequence[str]) -> None:
        if getattr(self, name) not in allowed:
            raise InputError(f"train: unknown {name}", found=repr(getattr(self, name)), allowed=", ".join(allowed))

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise InputError(f"train: {name}", found=getattr(self, name), allowed=f"at least {least}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values, readable by `from_json`."""
        values = asdict(self)
        values["hidden"] = list(self.hidden)
        values["candidates"] = list(self.candidates)
        values["selection"]["features"] = list(self.selection.features)
        values["selection"]["hidden"] = list(self.selection.hidden)
        return values

    @classmethod
    def from_json(cls, values: Any, where: object) -> TrainConfig:
        """Rebuild from `to_json`.

        Raises:
            InputError: a key is unknown or missing, or a value of another type or out of range.
        """
        return typed(cls, values, where, "a run's settings cannot be read")
