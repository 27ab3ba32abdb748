"""Options that say which data and which model: shared by `train`, `bench train` and `data describe`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from amtl_export.cli.types import DATA, FOLDER, Choice, IntList, RatioList, TextList
from amtl_export.models.config import BACKBONE_NAMES, SelectionConfig
from amtl_export.training.config import TABLE_OPTIMIZERS, TrainConfig

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = TrainConfig(data="synthetic")

#: Option → the setting of the selection network that it stands for.
_SELECTION = {
    "temperature": "temperature",
    "temperature_end": "temperature_end",
    "initial_ratio": "initial_ratio",
    "selection_hidden": "hidden",
    "selection_features": "features",
    "selection_norm": "norm",
}


def data_options(command: F) -> F:
    """--data, --path, --limit-rows."""
    for option in (
        click.option("--limit-rows", type=click.IntRange(min=1), metavar="N", help="Use the first N rows only."),
        click.option("--path", type=FOLDER, metavar="DIR", help="Folder with a named source's files."),
        click.option(
            "--data",
            type=DATA,
            required=True,
            metavar="NAME|FOLDER",
            help="ml-1m, ml-100k, ijcai18, taobao, taobao-history, criteo, synthetic[:rows=N,values=V,…], "
            "or a folder or file with a schema.toml (./ml-1m for one of such a name).",
        ),
    ):
        command = option(command)
    return command


def setting(flag: str, kind: Any, text: str, *, metavar: str | None = None) -> Callable[[F], F]:
    """An option of a `TrainConfig`, with its default."""
    name = flag.removeprefix("--").replace("-", "_")
    own = getattr(_DEFAULTS.selection, _SELECTION[name]) if name in _SELECTION else getattr(_DEFAULTS, name)
    default = ",".join(map(str, own)) if isinstance(own, tuple) else own
    shown = default is not None
    return click.option(flag, type=kind, default=default, show_default=shown, metavar=metavar, help=text)


def model_options(command: F) -> F:
    """Sizes, rates and regularisation."""
    unit = click.FloatRange(min=0, max=1, max_open=True)
    positive = click.FloatRange(min=0, min_open=True)
    for option in (
        setting("--selection-norm", Choice(["zscore", "minmax"]), "norm of the switch."),
        setting("--selection-features", TextList(), "Of log_count, log_rank, sqrt_count."),
        setting("--selection-hidden", IntList(), "Hidden widths of the selection network."),
        setting("--candidates", RatioList(), "Embedding sizes of autoemb as parts of D."),
        setting("--mde-alpha", click.FloatRange(0, 1), "Exponent of mde's popularity rule."),
        setting("--mde-blocks", click.IntRange(min=1), "Frequency blocks of a field, of mde."),
        setting("--initial-ratio", click.FloatRange(0, 1, min_open=True), "Dims at the start, times D."),
        setting("--selection-decay", click.FloatRange(min=0), "L2 of the selection network."),
        setting("--selection-lr", positive, "Learning rate of the selection network.  [default: --lr]"),
        setting("--dim-budget", click.FloatRange(0, 1, min_open=True), "Mean dims at most R·D.", metavar="R"),
        setting("--temperature-end", positive, "T after ten epochs; it goes there step by step."),
        setting("--temperature", positive, "T of the straight-through estimator."),
        setting("--embedding-decay", click.FloatRange(min=0), "L2 of the table."),
        setting("--weight-decay", click.FloatRange(min=0), "L2 of the backbone."),
        setting("--embedding-dropout", unit, "On embedded values."),
        setting("--dropout", unit, "On hidden outputs."),
        setting("--hidden", IntList(), "Hidden widths of the backbone."),
        setting("--lr-decay", click.FloatRange(min=0, max=1, min_open=True), "Times the rate, after a worse epoch."),
        setting("--table-lr", positive, "Learning rate of the table.  [default: --lr]"),
        setting("--table-optimizer", Choice(TABLE_OPTIMIZERS), "What steps on the table."),
        setting("--lr", positive, "Adam's learning rate."),
        setting("--batch-size", click.IntRange(min=1), "Examples a step."),
        setting("--dim", click.IntRange(min=1), "D, floats of a full row."),
        setting("--backbone", Choice(BACKBONE_NAMES), "What turns rows into a logit."),
        setting("--patience", click.IntRange(min=1), "Epochs without a better validation AUC."),
    ):
        command = option(command)
    return command


def train_config(*, path: Path | None, warm_start: Path | None = None, **given: Any) -> TrainConfig:
    """A `TrainConfig` from options; None means the default.

    Raises:
        InputError: a value is out of range.
    """
    from amtl_export.data.catalog import is_named
    from amtl_export.errors import InputError

    selection = {name: given.pop(option) for option, name in _SELECTION.items() if given.get(option) is not None}
    rest = {name: value for name, value in given.items() if value is not None and name not in _SELECTION}
    data = rest.pop("data")
    if not is_named(data) and Path(data).exists():
        data = str(Path(data).resolve())
    try:
        return TrainConfig(
            data=data,
            path=str(path.resolve()) if path else None,
            warm_start=str(warm_start.resolve()) if warm_start else None,
            selection=SelectionConfig(**selection),
            **rest,
        )
    except ValueError as error:
        raise InputError("train: selection network", found=error) from None
