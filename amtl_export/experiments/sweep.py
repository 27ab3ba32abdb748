"""Run a plan over seeds; a run that is there already is not trained again."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amtl_export.bench.machine import describe_machine, today
from amtl_export.errors import InputError
from amtl_export.experiments.plan import Arm, Plan
from amtl_export.files import producer, write_json
from amtl_export.freezing.frozen import freeze
from amtl_export.report.inspection import inspect_field
from amtl_export.tables.cost import least_bytes
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run, load_run


@dataclass(frozen=True)
class ArmResult:
    """What one training came to.

    Attributes:
        bytes_table: of the embedding table in its smallest layout, projections included.
        field_dims: governed field → mean dims.
        groups: governed field → mean dims in seven frequency groups.
    """

    arm: str
    seed: int
    auc_test: float
    logloss_test: float
    avg_dim: float
    avg_dim_ratio: float
    bytes_table: int
    auc_test_soft: float | None
    field_dims: dict[str, float]
    groups: dict[str, list[float]]


def sweep(
    plan: Plan, seeds: Sequence[int], out: Path, *, note: Callable[[str], None] = lambda _: None
) -> list[ArmResult]:
    """Train every arm with every seed under `out/runs`, but those that this or another experiment left there.

    Raises:
        InputError: a run of other settings is in the way, or the data is bad.
        EnvironmentLacks: no disk space or no permission.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", {"producer": producer(), "kind": "experiments"})
    results = []
    total = len(plan.arms) * len(seeds)
    for number, (seed, arm) in enumerate(itertools.product(seeds, plan.arms), start=1):
        run = _run(arm, seed, out / "runs")
        result = _result(arm, seed, run)
        ratio = f"{result.avg_dim_ratio:.2f} D"
        note(f"{number}/{total} {arm.name}, seed {seed}: test AUC {result.auc_test:.4f}, mean dims {ratio}")
        results.append(result)
    return results


def run_folder(arm: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{arm.replace(' ', '-')}-s{seed}"


def _run(arm: Arm, seed: int, folder: Path) -> Run:
    warm = str((folder / run_folder(arm.warm_from, seed)).resolve()) if arm.warm_from else None
    config = replace(arm.config, seed=seed, warm_start=warm)
    place = folder / run_folder(arm.name, seed)
    if not place.exists():
        return train(config, place)
    run = load_run(place)
    # Where the data lies may differ.
    if replace(run.train, path=config.path, warm_start=config.warm_start) != config:
        raise InputError(
            "a run of other settings is in the way", where=place, fix="choose another folder, or remove it"
        )
    return run


def _result(arm: Arm, seed: int, run: Run) -> ArmResult:
    frozen = freeze(run)
    dims, D = frozen.table.dims.numpy(), frozen.config.dim
    found = {
        field.name: inspect_field(
            field.name, True, frozen.vocabularies[field.name].counts, frozen.field_dims(field.name).numpy(), D
        )
        for field in frozen.config.embedded
        if field.governed and field.shares is None
    }
    metrics = run.metrics
    return ArmResult(
        arm.name,
        seed,
        metrics["auc_test"],
        metrics["logloss_test"],
        metrics["avg_dim"],
        metrics["avg_dim_ratio"],
        least_bytes(dims, D) + frozen.projection_bytes,
        metrics.get("auc_test_soft"),
        {name: field.avg_dim for name, field in found.items()},
        {name: list(field.group_dims) for name, field in found.items()},
    )


def summarise(name: str, plan: Plan, base: TrainConfig, results: Sequence[ArmResult]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and each arm paired with the first by seed.

    The test is exact: of all ways to turn the signs of the paired differences, the part whose mean is at
    least as far from zero. With n seeds its least p is 2 / 2^n, so three seeds cannot show less than 0.25.
    """
    configs = {arm.name: arm.config for arm in plan.arms}
    by_arm: dict[str, list[ArmResult]] = {arm.name: [] for arm in plan.arms}
    for result in results:
        by_arm[result.arm].append(result)
    first = [r.auc_test for r in by_arm[plan.arms[0].name]]
    arms = []
    for arm, arm_results in by_arm.items():
        differences = [r.auc_test - b for r, b in zip(arm_results, first, strict=True)]
        arms.append(
            {
                "arm": arm,
                "changes": changes_from(base, configs[arm]),
                "auc_test": _spread([r.auc_test for r in arm_results]),
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
                "runs": [{"seed": r.seed, "auc_test": r.auc_test, "avg_dim": r.avg_dim} for r in arm_results],
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


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test on paired differences (Fisher 1935)."""
    seen = abs(math.fsum(differences))
    flips = [
        abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(flip >= seen - 1e-15 for flip in flips) / len(flips)
