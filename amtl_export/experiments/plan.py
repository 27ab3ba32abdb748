"""Which trainings an experiment needs. An arm is a training; a plan is its arms, the baseline first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from amtl_export.errors import InputError
from amtl_export.models.ctr import ATTENDING, BACKBONES
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
        shown: whether its table is about `auc` or `dims`.
        figure: `pareto`, `groups` or None.
    """

    title: str
    arms: tuple[Arm, ...]
    shown: Literal["auc", "dims"] = "auc"
    figure: Literal["pareto", "groups"] | None = None


def _arm(base: TrainConfig, name: str, *, warm_from: str | None = None, **changes: Any) -> Arm:
    """An arm; a place for its warm start is filled in when it is trained."""
    return Arm(name, replace(base, warm_start=warm_from, **changes), warm_from)


def _named(method: str, ratio: float | None) -> str:
    return method if ratio is None else f"{method}@{ratio:g}"


def _held(base: TrainConfig, methods: Sequence[str], budgets: Sequence[float]) -> list[Arm]:
    """Methods held to budgets, and MagPrune twice: the FBE run as pruned, and trained on after it."""
    arms = []
    for ratio in budgets:
        arms += [_arm(base, _named(method, ratio), method=method, dim_budget=ratio) for method in methods]
        pruned = _arm(base, _named("magprune", ratio), method="magprune", dim_budget=ratio, warm_from="fbe", epochs=0)
        tuned = _arm(base, f"{pruned.name} tuned", method="magprune", dim_budget=ratio, warm_from="fbe")
        arms += [pruned, tuned]
    return arms


def table1(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """AUC by method (the paper's table 1): as in the paper, and held to budgets."""
    arms = [_arm(base, method, method=method) for method in ("fbe", "mde", "autoemb", "amtl")]
    arms += _held(base, ("amtl", "mde"), budgets)
    return Plan("AUC by method", tuple(arms))


def table2(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """Mean dims and their ratio to D by method (the paper's table 2): the same trainings as table 1."""
    return replace(table1(base, budgets), title="Mean dims by method", shown="dims")


def table3(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """Warm start from FBE against random start (the paper's table 3).

    AutoEmb cannot be warm-started. FBE trained on from itself says how much of a gain is only more training.
    """
    arms = [_arm(base, "fbe", method="fbe"), _arm(base, "fbe warm", method="fbe", warm_from="fbe")]
    arms.append(_arm(base, "autoemb", method="autoemb"))
    for ratio in (None, *budgets):
        name = _named("amtl", ratio)
        arms.append(_arm(base, name, method="amtl", dim_budget=ratio))
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
    for ratio in (None, *budgets):
        for method in ("amtl", "aml"):
            arms.append(_arm(base, _named(method, ratio), method=method, dim_budget=ratio))
    return Plan("Mean dims by frequency group", tuple(arms), shown="dims", figure="groups")


def pareto(base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """AUC against bytes: AMTL, MDE and MagPrune at budgets, and FBE of as many dims."""
    arms = [_arm(base, "fbe", method="fbe"), *_held(base, ("amtl", "mde"), budgets)]
    for ratio in budgets:
        dim = max(1, round(ratio * base.dim))
        arms.append(_arm(base, f"fbe D={dim}", method="fbe", dim=dim))
    return Plan("AUC against bytes", tuple(arms), figure="pareto")


def backbones(base: TrainConfig, _budgets: Sequence[float]) -> Plan:
    """FBE on every backbone that needs no sequence."""
    names = [name for name in BACKBONES if name not in ATTENDING]
    return Plan("FBE by backbone", tuple(_arm(base, name, method="fbe", backbone=name) for name in names))


def settings(base: TrainConfig, _budgets: Sequence[float]) -> Plan:
    """What each setting of AMTL does to dims and AUC, one changed at a time."""
    arms = [_arm(base, "amtl", method="amtl")]
    selections: dict[str, dict[str, Any]] = {
        "T=0.1": {"temperature": 0.1},
        "T=10": {"temperature": 10.0},
        "T 10 to 0.1": {"temperature": 10.0, "temperature_end": 0.1},
        "start at 0.25 D": {"initial_ratio": 0.25},
        "start at D": {"initial_ratio": 1.0},
        "minmax norm": {"norm": "minmax"},
        "log_count only": {"features": ("log_count",)},
        "sqrt_count too": {"features": ("log_count", "log_rank", "sqrt_count")},
    }
    for name, changes in selections.items():
        arms.append(_arm(base, name, method="amtl", selection=replace(base.selection, **changes)))
    others: dict[str, dict[str, Any]] = {
        "selection lr 0.1x": {"selection_lr": base.lr / 10},
        "selection lr 10x": {"selection_lr": min(base.lr * 10, 0.5)},
        "selection L2 1e-3": {"selection_decay": 1e-3},
        "backbone L2 1e-5": {"weight_decay": 1e-5},
        "table L2 1e-6": {"embedding_decay": 1e-6},
    }
    arms += [_arm(base, name, method="amtl", **changes) for name, changes in others.items()]
    return Plan("What each setting does to AMTL's dims", tuple(arms), shown="dims")


PLANS: dict[str, Callable[[TrainConfig, Sequence[float]], Plan]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "fig3": fig3,
    "pareto": pareto,
    "backbones": backbones,
    "settings": settings,
}


def make_plan(name: str, base: TrainConfig, budgets: Sequence[float]) -> Plan:
    """The plan of an experiment.

    Raises:
        InputError: unknown name, or a budget out of range.
    """
    if name not in PLANS:
        raise InputError("unknown experiment", found=repr(name), allowed=", ".join(PLANS))
    return PLANS[name](base, budgets)
