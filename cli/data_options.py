"""Options that say which data and which model: shared by `train`, `bench train` and `data describe`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amtl_export.cli.options import FOLDER, IntList, RatioList, TextList

if TYPE_CHECKING:
    from amtl_export.training.config import TrainConfig

F = TypeVar("F", bound=Callable[..., Any])


def data_options(command: F) -> F:
    """--data, --path, --limit-rows."""
    for option in (
        click.option("--limit-rows", type=click.IntRange(min=1), metavar="N", help="Use the first N rows only."),
        click.option("--path", type=FOLDER, metavar="DIR", help="Folder with a named source's files."),
        click.option(
            "--data",
            required=True,
            metavar="NAME|FOLDER",
            help="ml-1m, ml-100k, ijcai18, taobao, taobao-history, criteo, synthetic[:rows=N,values=V,…], "
            "or a folder or file with a schema.toml (./ml-1m for one of such a name).",
        ),
    ):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """Sizes, rates and regularisation; what is not given keeps its default."""
    unit = click.FloatRange(min=0, max=1, max_open=True)
    positive = click.FloatRange(min=0, min_open=True)
    for option in (
        click.option("--selection-norm", type=click.Choice(["zscore", "minmax"]), help="norm of the switch."),
        click.option("--selection-features", type=TextList(), help="Of log_count, log_rank, sqrt_count."),
        click.option("--selection-hidden", type=IntList(), help="Hidden widths of the selection network."),
        click.option("--candidates", type=RatioList(), help="Embedding sizes of autoemb as parts of D."),
        click.option("--mde-alpha", type=click.FloatRange(0, 1), help="Exponent of mde's popularity rule."),
        click.option("--mde-blocks", type=click.IntRange(min=1), help="Frequency blocks of a field, of mde."),
        click.option("--initial-ratio", type=click.FloatRange(0, 1, min_open=True), help="Dims at the start, times D."),
        click.option("--selection-decay", type=click.FloatRange(min=0), help="L2 of the selection network."),
        click.option("--selection-lr", type=positive, help="Learning rate of the selection network."),
        click.option(
            "--dim-budget", type=click.FloatRange(0, 1, min_open=True), metavar="R", help="Mean dims at most R·D."
        ),
        click.option("--temperature-end", type=positive, help="T after ten epochs; it goes there step by step."),
        click.option("--temperature", type=positive, help="T of the straight-through estimator."),
        click.option("--embedding-decay", type=click.FloatRange(min=0), help="L2 of the table."),
        click.option("--weight-decay", type=click.FloatRange(min=0), help="L2 of the backbone."),
        click.option("--embedding-dropout", type=unit, help="On embedded values."),
        click.option("--dropout", type=unit, help="On hidden outputs."),
        click.option("--hidden", type=IntList(), help="Hidden widths of the backbone."),
        click.option("--lr-decay", type=click.FloatRange(min=0, max=1, min_open=True), help="After a worse epoch."),
        click.option("--lr", type=positive, help="Adam's learning rate."),
        click.option("--batch-size", type=click.IntRange(min=1), help="Examples a step."),
        click.option("--dim", type=click.IntRange(min=1), help="D, floats of a full row."),
        click.option("--backbone", help="dnn, widedeep, deepfm, dcnv2, autoint or din."),
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
    from amtl_export.models.config import SelectionConfig
    from amtl_export.training.config import TrainConfig

    names = {
        "temperature": "temperature",
        "temperature_end": "temperature_end",
        "initial_ratio": "initial_ratio",
        "selection_hidden": "hidden",
        "selection_features": "features",
        "selection_norm": "norm",
    }
    selection = {name: given.pop(option) for option, name in names.items() if given.get(option) is not None}
    rest = {name: value for name, value in given.items() if value is not None and name not in names}
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
