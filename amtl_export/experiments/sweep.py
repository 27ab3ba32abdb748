"""Run a plan over seeds; a run that is there already is not trained again."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.bench.machine import describe_machine, today
from amtl_export.data.vocabulary import FIRST_VALUE, Vocabulary
from amtl_export.errors import InputError
from amtl_export.experiments.plan import Arm, Plan
from amtl_export.files import producer, real, whole_file, write_json
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.table import CodedEmbedding
from amtl_export.metrics import rank_correlation
from amtl_export.report.inspection import inspect_field
from amtl_export.tables.cost import least_bytes
from amtl_export.training.batches import predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.measures import measured
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


def sweep(
    plan: Plan, seeds: Sequence[int], out: Path, *, note: Callable[[str], None] = lambda _: None
) -> list[ArmResult]:
    """Train or make every arm with every seed under `out/runs`, but those that this or another experiment left there.

    Raises:
        InputError: a run of other settings is in the way, or the data is bad.
        EnvironmentLacks: no disk space or no permission.
    """
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "config.json") as draft:
        write_json(draft, {"producer": producer(), "kind": "experiments"})
    results = []
    total = len(plan.arms) * len(seeds)
    for number, (seed, arm) in enumerate(itertools.product(seeds, plan.arms), start=1):
        result = _result(arm, seed, out / "runs", plan)
        ratio = f"{result.avg_dim_ratio:.2f} D"
        note(f"{number}/{total} {arm.name}, seed {seed}: test AUC {result.auc_test:.4f}, mean dims {ratio}")
        results.append(result)
    return results


def run_folder(arm: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{arm.replace(' ', '-')}-s{seed}"


def _result(arm: Arm, seed: int, folder: Path, plan: Plan) -> ArmResult:
    if arm.derive is None:
        run = _run(arm, seed, folder)
        frozen, metrics = freeze(run), run.metrics
    else:
        assert arm.warm_from is not None
        run = load_run(folder / run_folder(arm.warm_from, seed))
        frozen = arm.derive(run)
        metrics = _measured(frozen, run)
    return _summed_up(arm.name, seed, frozen, metrics, plan)


def _run(arm: Arm, seed: int, folder: Path) -> Run:
    warm = str(real(folder / run_folder(arm.warm_from, seed))) if arm.warm_from else None
    config = replace(arm.config, seed=seed, warm_start=warm)
    place = folder / run_folder(arm.name, seed)
    if not place.exists():
        return train(config, place, prepare=arm.prepare)
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


def summarise(name: str, plan: Plan, base: TrainConfig, results: Sequence[ArmResult]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and each arm paired with the baseline by seed.

    The test is exact: of all ways to turn the signs of the paired differences, the part whose mean is at
    least as far from zero. With n seeds its least p is 2 / 2^n, so three seeds cannot show less than 0.25.
    """
    configs = {arm.name: arm.config for arm in plan.arms}
    grids = {arm.name: arm.grid for arm in plan.arms}
    by_arm: dict[str, list[ArmResult]] = {arm.name: [] for arm in plan.arms}
    for result in results:
        by_arm[result.arm].append(result)
    baseline = plan.baseline or plan.arms[0].name
    compared = [r.auc_test for r in by_arm[baseline]]
    chosen = _chosen(plan, by_arm)
    arms = []
    for arm, arm_results in by_arm.items():
        differences = [r.auc_test - b for r, b in zip(arm_results, compared, strict=True)]
        arms.append(
            {
                "arm": arm,
                "changes": changes_from(base, configs[arm]),
                "grid": grids[arm],
                "chosen": arm in chosen,
                "auc_valid": _spread([r.auc_valid for r in arm_results if r.auc_valid is not None]),
                "auc_test": _spread([r.auc_test for r in arm_results]),
                "gauc_test": _spread([r.gauc_test for r in arm_results if r.gauc_test is not None]),
                "logloss_test": _spread([r.logloss_test for r in arm_results]),
                "avg_dim": _spread([r.avg_dim for r in arm_results]),
                "avg_dim_ratio": _spread([r.avg_dim_ratio for r in arm_results]),
                "bytes_table": statistics.mean(r.bytes_table for r in arm_results),
                "auc_difference": _spread(differences),
                "p_paired": sign_flip_p(differences),
                "auc_test_soft": _spread([r.auc_test_soft for r in arm_results if r.auc_test_soft is not None]),
                "field_dims": {
                    name: _spread([r.field_dims[name] for r in arm_results]) for name in arm_results[0].field_dims
                },
                "groups": _mean_groups(arm_results),
                "rank_correlation": _mean_correlations(arm_results),
                "runs": [
                    {
                        "seed": r.seed,
                        "auc_test": r.auc_test,
                        "gauc_test": r.gauc_test,
                        "avg_dim": r.avg_dim,
                        "rank_correlation": r.rank_correlation,
                        "groups": r.groups,
                    }
                    for r in arm_results
                ],
            }
        )
    varied = ("path", "warm_start", "method", "dim_budget", "seed")
    settings = {key: value for key, value in base.to_json().items() if key not in varied}
    return {
        "experiment": name,
        "title": plan.title,
        "date": today(),
        "machine": describe_machine(),
        "settings": settings,
        "seeds": sorted({r.seed for r in results}),
        "shown": plan.shown,
        "figure": plan.figure,
        "baseline": baseline,
        "weighted": any(r.weighted for r in results),
        "expected": plan.expected_name,
        "arms": arms,
    }


def changes_from(base: TrainConfig, config: TrainConfig) -> dict[str, Any]:
    """The settings of an arm that are not the experiment's own."""
    common = base.to_json()
    return {key: value for key, value in config.to_json().items() if value != common[key]}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def _mean_groups(results: Sequence[ArmResult]) -> dict[str, list[float]]:
    fields = results[0].groups
    return {name: [statistics.mean(g) for g in zip(*(r.groups[name] for r in results), strict=True)] for name in fields}


def _mean_correlations(results: Sequence[ArmResult]) -> dict[str, dict[str, float] | None]:
    """Spread over the seeds in which dims differ at all."""
    found = {name: [r.rank_correlation[name] for r in results] for name in results[0].rank_correlation}
    return {name: _spread([value for value in values if value is not None]) for name, values in found.items()}


def _chosen(plan: Plan, results: Mapping[str, Sequence[ArmResult]]) -> set[str]:
    """Of each grid, the arm with the best mean AUC on the valid split."""
    grids: dict[str, list[str]] = {}
    for arm in plan.arms:
        if arm.grid is not None:
            grids.setdefault(arm.grid, []).append(arm.name)
    return {
        max(names, key=lambda name: statistics.mean(r.auc_valid or 0 for r in results[name]))
        for names in grids.values()
    }


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test on paired differences (Fisher 1935)."""
    seen = abs(math.fsum(differences))
    flips = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(flip >= seen - 1e-15 for flip in flips) / len(flips)
