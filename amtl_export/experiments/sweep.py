"""Run a plan over seeds; a run that is there already is not trained again."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from amtl_export.bench.machine import describe_machine, today
from amtl_export.experiments.arm import ArmResult, arm_result
from amtl_export.experiments.plan import Plan
from amtl_export.experiments.spread import Job, Spread, naming, side_by_side
from amtl_export.files import producer, whole_file, write_json
from amtl_export.stages import stage
from amtl_export.training.config import TrainConfig


def sweep(
    plan: Plan,
    seeds: Sequence[int],
    out: Path,
    spread: Spread | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[ArmResult]:
    """Train or make every arm with every seed under `out/runs`, but those that this or another experiment left there.

    Args:
        plan: its arms.
        seeds: each arm is trained with each.
        out: the folder.
        spread: where, and how many at a time; one after the other in this process if not given.
        note: is told of each finished training.

    Returns:
        By seed, then in the plan's order, whatever was finished first.

    Raises:
        InputError: a run of other settings is in the way, or the data is bad; says which arm.
        EnvironmentLacks: no disk space or no permission, Ray cannot be reached, or a process died.
    """
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "config.json") as draft:
        write_json(draft, {"producer": producer(), "kind": "experiments"})
    jobs = [Job(arm, seed) for seed, arm in itertools.product(seeds, plan.arms)]
    results: dict[Job, ArmResult] = {}
    with closing(_results(jobs, out.absolute(), plan, spread or Spread(), note)) as finished:
        for job, result in finished:
            results[job] = result
            ratio = f"{result.avg_dim_ratio:.2f} D"
            note(f"{len(results)}/{len(jobs)} {job}: test AUC {result.auc_test:.4f}, mean dims {ratio}")
    return [results[job] for job in jobs]


def _results(
    jobs: Sequence[Job], out: Path, plan: Plan, spread: Spread, note: Callable[[str], None]
) -> Generator[tuple[Job, ArmResult]]:
    if spread.apart:
        yield from side_by_side(jobs, out, plan, spread, note)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(spread.threads or before)
    try:
        for job in jobs:
            stage(f"{job}")
            with naming(job):
                result = arm_result(job.arm, job.seed, out / "runs", plan)
            yield job, result
    finally:
        torch.set_num_threads(before)


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
