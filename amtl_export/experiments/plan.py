"""Which trainings an experiment needs. An arm is a training; a plan is its arms, the baseline first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amtl_export.errors import InputError
from amtl_export.training.config import TrainConfig


@dataclass(frozen=True)
class Arm:
    """One training of an experiment, repeated over seeds.

    Attributes:
        name: in tables and folder names.
        config: what to train.
        warm_from: name of the arm (same seed) whose run it starts from.
    """

    name: str
    config: TrainConfig
    warm_from: str | None = None


@dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
        title: of its table.
        arms: the baseline first; arms that others start from come before them.
        figure: `pareto`, `groups` or None.
    """

    title: str
    arms: tuple[Arm, ...]
    figure: str | None = None


def _arm(base: TrainConfig, name: str, *, warm_from: str | None = None, **changes: Any) -> Arm:
    return Arm(name, replace(base, **changes), warm_from)


def _named(method: str, ratio: float | None) -> str:
    return method if ratio is None else f"{method}@{ratio:g}"


def table1(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """AUC and mean dims by method (the paper's tables 1 and 2), AMTL as in the paper and held to budgets."""
    arms = [_arm(base, "fbe", method="fbe"), _arm(base, "amtl", method="amtl")]
    for ratio in budgets:
        for method in ("amtl", "magprune"):
            arms.append(_arm(base, _named(method, ratio), method=method, dim_budget=ratio))
    return Plan("AUC and mean dims by method", tuple(arms))


def table3(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """Warm start from FBE against random start (the paper's table 3)."""
    arms = [_arm(base, "fbe", method="fbe")]
    for ratio in (None, *budgets):
        name = _named("amtl", ratio)
        arms.append(_arm(base, f"{name} random", method="amtl", dim_budget=ratio))
        arms.append(_arm(base, f"{name} warm", method="amtl", dim_budget=ratio, warm_from="fbe"))
    return Plan("Warm start against random start", tuple(arms))


def table4(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """AML, AMTL without the straight-through estimator, AMTL (the paper's table 4)."""
    arms = [_arm(base, "fbe", method="fbe")]
    for ratio in (None, *budgets):
        for method in ("aml", "amtl_nste", "amtl"):
            arms.append(_arm(base, _named(method, ratio), method=method, dim_budget=ratio))
    return Plan("What the twins and the estimator are worth", tuple(arms))


def fig3(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """Mean dims by frequency group for AMTL and AML (the paper's figure 3)."""
    arms = []
    for ratio in budgets or (None,):
        for method in ("amtl", "aml"):
            arms.append(_arm(base, _named(method, ratio), method=method, dim_budget=ratio))
    return Plan("Mean dims by frequency group", tuple(arms), "groups")


def pareto(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """AUC against bytes: AMTL and MagPrune at budgets, and FBE of as many dims."""
    arms = [_arm(base, "fbe", method="fbe")]
    for ratio in budgets:
        for method in ("amtl", "magprune"):
            arms.append(_arm(base, _named(method, ratio), method=method, dim_budget=ratio))
        arms.append(
            _arm(base, f"fbe D={max(1, round(ratio * base.dim))}", method="fbe", dim=max(1, round(ratio * base.dim)))
        )
    return Plan("AUC against bytes", tuple(arms), "pareto")


PLANS: dict[str, Callable[[TrainConfig, Sequence[float]], Plan]] = {
    "table1": table1,
    "table2": table1,
    "table3": table3,
    "table4": table4,
    "fig3": fig3,
    "pareto": pareto,
}


def make_plan(name: str, base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """The plan of an experiment.

    Raises:
        InputError: unknown name, or a budget out of range.
    """
    if name not in PLANS:
        raise InputError("unknown experiment", found=repr(name), allowed=", ".join(PLANS))
    return PLANS[name](base, budgets)
