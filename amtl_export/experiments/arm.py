"""One arm with one seed: a training, or a model made from one, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.experiments.plan import Arm, Plan
from amtl_export.files import real
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.table import CodedEmbedding
from amtl_export.metrics import rank_correlation
from amtl_export.report.inspection import inspect_field
from amtl_export.tables.cost import least_bytes
from amtl_export.training.batches import predict
from amtl_export.training.loop import train
from amtl_export.training.measures import measured
from amtl_export.training.observer import TrainObserver
from amtl_export.training.run import Run, load_run


@dataclass(frozen=True)
class ArmResult:
    """What one training came to.

    Attributes:
        auc_valid: of the valid split; None where nothing was trained.
        weighted: whether AUC, GAUC and logloss are.
        gauc_test: None if the data has no groups, or none with both clicks and non-clicks.
        bytes_table: of the embedding table in its smallest layout, projections included.
        field_dims: governed field → mean dims.
        groups: governed field → mean dims in seven frequency groups.
        rank_correlation: governed field → Spearman's, of dims with what they should rise with; None if all are alike.
    """

    arm: str
    seed: int
    auc_valid: float | None
    auc_test: float
    logloss_test: float
    avg_dim: float
    avg_dim_ratio: float
    bytes_table: int
    auc_test_soft: float | None
    field_dims: dict[str, float]
    groups: dict[str, list[float]]
    rank_correlation: dict[str, float | None]
    gauc_test: float | None = None
    weighted: bool = False


def run_folder(arm: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{arm.replace(' ', '-')}-s{seed}"


def arm_result(arm: Arm, seed: int, folder: Path, plan: Plan, observer: TrainObserver | None = None) -> ArmResult:
    """Train or make an arm, or read the run that is there, and sum it up.

    Args:
        arm: which.
        seed: of the training.
        folder: of runs; the one that the arm starts from is there.
        plan: that it is of.
        observer: is told how a training goes.

    Raises:
        InputError: a run of other settings is in the way, or the data is bad.
        EnvironmentLacks: no disk space or no permission.
    """
    if arm.derive is None:
        run = _run(arm, seed, folder, observer)
        frozen, metrics = freeze(run), run.metrics
    else:
        assert arm.warm_from is not None
        run = load_run(folder / run_folder(arm.warm_from, seed))
        frozen = arm.derive(run)
        metrics = _measured(frozen, run)
    return _summed_up(arm.name, seed, frozen, metrics, plan)


def _run(arm: Arm, seed: int, folder: Path, observer: TrainObserver | None) -> Run:
    warm = str(real(folder / run_folder(arm.warm_from, seed))) if arm.warm_from else None
    config = replace(arm.config, seed=seed, warm_start=warm)
    place = folder / run_folder(arm.name, seed)
    if not place.exists():
        return train(config, place, observer=observer, prepare=arm.prepare)
    run = load_run(place)
    # Where the data lies may differ.
    if replace(run.train, path=config.path, warm_start=config.warm_start) != config:
        raise InputError(
            "a run of other settings is in the way", where=place, fix="choose another folder, or remove it"
        )
    return run


def _measured(frozen: FrozenModel, run: Run) -> dict[str, Any]:
    """What `metrics.json` says of a run, of a frozen model made from one."""
    test = run.rows("test")
    logits = predict(frozen.ctr, test)
    governed = [field.name for field in frozen.config.embedded if field.governed and field.shares is None]
    dims = np.concatenate([frozen.field_dims(name).numpy() for name in governed])
    mean = float(dims[dims > 0].mean())
    return {
        **measured(logits, test, "test", frozen.config.labels),
        "weighted": test.weight is not None,
        "avg_dim": mean,
        "avg_dim_ratio": mean / frozen.config.dim,
    }


def _summed_up(name: str, seed: int, frozen: FrozenModel, metrics: dict[str, Any], plan: Plan) -> ArmResult:
    D = frozen.config.dim
    governed = [field.name for field in frozen.config.embedded if field.governed and field.shares is None]
    found = {
        field: inspect_field(field, True, frozen.vocabularies[field].counts, frozen.field_dims(field).numpy(), D)
        for field in governed
    }
    return ArmResult(
        name,
        seed,
        metrics.get("auc_valid"),
        metrics["auc_test"],
        metrics["logloss_test"],
        metrics["avg_dim"],
        metrics["avg_dim_ratio"],
        least_bytes(frozen.table.dims.numpy(), frozen.table.rows.shape[1]) + _projection_bytes(frozen),
        metrics.get("auc_test_soft"),
        {name: field.avg_dim for name, field in found.items()},
        {name: list(field.group_dims) for name, field in found.items()},
        {field: _rises(frozen.field_dims(field).numpy(), plan, frozen.vocabularies[field]) for field in governed},
        metrics.get("gauc_test"),
        metrics.get("weighted", False),
    )


def _projection_bytes(frozen: FrozenModel) -> int:
    """Of mde's projections, or of the bases that stay in the graph."""
    if frozen.compressed is not None:
        chosen = next(own for own in frozen.compressed.report["placements"] if own["chosen"])
        return int(chosen["projection_bytes"])
    embedding = frozen.ctr.embedding
    return embedding.bases.nbytes if isinstance(embedding, CodedEmbedding) else frozen.projection_bytes


def _rises(dims: npt.NDArray[np.int64], plan: Plan, vocabulary: Vocabulary) -> float | None:
    """Rank correlation over the ids that stand for values."""
    values = slice(FIRST_VALUE, FIRST_VALUE + len(vocabulary.values))
    return rank_correlation(dims[values], plan.expected(vocabulary)[values])
