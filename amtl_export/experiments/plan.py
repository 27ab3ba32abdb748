"""Which trainings an experiment needs. An arm is a model; a plan is its arms, the baseline first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from amtl_export.data.named.synthetic import SyntheticConfig, planted_rank
from amtl_export.data.vocabulary import Vocabulary
from amtl_export.errors import InputError
from amtl_export.experiments.derived import compressed, fixed_dims, keep_all
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.models.config import ATTENDING, BACKBONE_NAMES
from amtl_export.models.ctr import CtrModel
from amtl_export.training.config import TrainConfig
from amtl_export.training.run import Run


@dataclass(frozen=True)
class Arm:
    """One model of an experiment, repeated over seeds.

    Attributes:
        name: in tables and folder names.
        config: what to train.
        warm_from: name of the arm (same seed) whose run it starts from, or is made from.
        derive: makes it from that run without training; None for a training.
        prepare: changes the model before its first epoch.
        grid: arms of one grid differ in a setting that the valid split chooses.
    """

    name: str
    config: TrainConfig
    warm_from: str | None = None
    derive: Callable[[Run], FrozenModel] | None = None
    prepare: Callable[[CtrModel, Mapping[str, Vocabulary]], None] | None = None
    grid: str | None = None


#: A learning rate at which nothing moves.
_HARDLY = 1e-12


def _counts(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """int64 `[V]`."""
    return vocabulary.counts


@dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
        title: of its table.
        arms: the baseline first; arms that others start from come before them.
        shown: whether its table is about `auc` or `dims`.
        figure: `pareto`, `groups` or None.
        baseline: the arm that others are compared with; None is the first.
        expected: what dims should rise with, of every id of a vocabulary `[V]`: how often training saw it, or a truth.
        expected_name: that, in a word.
    """

    title: str
    arms: tuple[Arm, ...]
    shown: Literal["auc", "dims"] = "auc"
    figure: Literal["pareto", "groups"] | None = None
    baseline: str | None = None
    expected: Callable[[Vocabulary], npt.NDArray[np.int64]] = _counts
    expected_name: str = "counts"


@dataclass(frozen=True)
class Base:
    """What all arms of an experiment have in common.

    Attributes:
        cold: of arms that start at random.
        warm: of arms that start from a run.
        given: mean dims as parts of D, for the arms that are held to one.
    """

    cold: TrainConfig
    warm: TrainConfig
    given: tuple[float, ...]

    @property
    def budgets(self) -> tuple[float, ...]:
        """Mean dims as parts of D.

        Raises:
            InputError: less than one dim.
        """
        least = 1 / self.cold.dim
        if too_small := [ratio for ratio in self.given if ratio < least]:
            raise InputError(
                f"experiment: a budget of less than one dim of {self.cold.dim}",
                found=too_small[0],
                allowed=f"{least:.3g} to 1",
                fix="budgets='R,R,…', or a larger dim",
            )
        return self.given

    def arm(self, name: str, *, warm_from: str | None = None, grid: str | None = None, **changes: Any) -> Arm:
        """An arm; a place for its warm start is filled in when it is trained."""
        common = self.cold if warm_from is None else self.warm
        return Arm(name, replace(common, warm_start=warm_from, **changes), warm_from, grid=grid)

    def method(self, method: str, ratio: float | None = None) -> Arm:
        """A method from a random start."""
        return self.arm(_named(method, ratio), method=method, dim_budget=ratio)

    def warmed(self, method: str, ratio: float | None = None) -> Arm:
        """A method from the FBE run, its rows in principal order where the method selects dims."""
        return self.arm(f"{_named(method, ratio)} warm", method=method, dim_budget=ratio, warm_from="fbe")

    def as_is(self, method: str, ratio: float | None = None) -> Arm:
        """A method from the FBE run with its rows as trained."""
        name = f"{_named(method, ratio)} warm as-is"
        return self.arm(name, method=method, dim_budget=ratio, warm_from="fbe", warm_order="as-is")

    def temperatures(self) -> list[Arm]:
        """AMTL without a budget at T = 1, 0.1 and 10: the valid split says which."""
        arms = [replace(self.method("amtl"), grid="amtl T")]
        for T in (0.1, 10.0):
            selection = replace(self.cold.selection, temperature=T)
            arms.append(self.arm(f"amtl T={T:g}", method="amtl", selection=selection, grid="amtl T"))
        return arms

    def cut(self, ratio: float) -> list[Arm]:
        """The FBE run cut as trained, and trained on after it."""
        name = _named("cut", ratio)
        return [
            self.arm(name, method="cut", dim_budget=ratio, warm_from="fbe", epochs=0),
            self.arm(f"{name} tuned", method="cut", dim_budget=ratio, warm_from="fbe"),
        ]

    def compressed(self, ratio: float) -> Arm:
        """The FBE run in principal order and cut, without training."""
        arm = self.arm(_named("compress", ratio), method="fbe", warm_from="fbe", epochs=0)
        return replace(arm, derive=compressed(ratio))

    def held(self) -> list[Arm]:
        """Methods held to budgets."""
        arms = []
        for ratio in self.budgets:
            arms += [self.method("amtl", ratio), self.warmed("amtl", ratio), self.method("mde", ratio)]
            arms += [self.compressed(ratio), *self.cut(ratio)]
        return arms

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """No budget, then each."""
        return (None, *self.budgets)


def _named(method: str, ratio: float | None) -> str:
    return method if ratio is None else f"{method}@{ratio:g}"


def table1(base: Base) -> Plan:
    """AUC by method (the paper's table 1): as in the paper, from principal order, and held to budgets."""
    arms = [base.method(method) for method in ("fbe", "mde", "autoemb")]
    arms += [_one_candidate(base), *base.temperatures(), base.warmed("fbe"), base.warmed("amtl"), *base.held()]
    return Plan("AUC by method", tuple(arms))


def table2(base: Base) -> Plan:
    """Mean dims and their ratio to D by method (the paper's table 2): the same trainings as table 1."""
    return replace(table1(base), title="Mean dims by method", shown="dims")


def table3(base: Base) -> Plan:
    """Warm start from FBE against random start (the paper's table 3).

    mde and autoemb take the hidden layers, amtl the rows too. FBE trained on for as long says how much of a gain is
    only more training: warm arms are to be compared with that.
    """
    arms = [base.method("fbe"), base.warmed("fbe")]
    for method in ("mde", "autoemb"):
        arms += [base.method(method), base.warmed(method)]
    arms.append(_one_candidate(base))
    for ratio in base.ratios:
        arms += [base.method("amtl", ratio), base.as_is("amtl", ratio), base.warmed("amtl", ratio)]
    arms += map(base.compressed, base.budgets)
    return Plan("Warm start against random start", tuple(arms), baseline="fbe warm")


def warm(base: Base) -> Plan:
    """AMTL from a table as trained and from principal order, and AML beside it, against FBE trained on for as long.

    "fbe warm ordered" is trained on from principal order and selects nothing: what the change of basis does by itself.
    """
    ordered = base.arm("fbe warm ordered", method="amtl", warm_from="fbe", selection_lr=_HARDLY)
    arms = [base.method("fbe"), base.warmed("fbe"), replace(ordered, prepare=keep_all)]
    for ratio in base.ratios:
        arms += [base.as_is("amtl", ratio), base.warmed("amtl", ratio)]
    arms += [base.warmed("aml"), *map(base.compressed, base.budgets)]
    return Plan("AMTL from principal order", tuple(arms), shown="dims", figure="groups", baseline="fbe warm")


def table4(base: Base) -> Plan:
    """AML, AMTL without the straight-through estimator, AMTL (the paper's table 4)."""
    arms = [base.method("fbe"), base.method("aml"), base.method("amtl_nste"), *base.temperatures()]
    for ratio in base.budgets:
        arms += [base.method(method, ratio) for method in ("aml", "amtl_nste", "amtl")]
    return Plan("What the twins and the estimator are worth", tuple(arms))


def fig3(base: Base) -> Plan:
    """Mean dims by frequency group for AMTL and AML (the paper's figure 3), and for networks as drawn."""
    fbe = base.method("fbe")
    untrained = base.arm("amtl untrained", method="amtl", warm_from="fbe", warm_order="as-is", epochs=0)
    arms = [fbe, untrained]
    for ratio in base.ratios:
        for method in ("amtl", "aml"):
            arms += [base.method(method, ratio), base.warmed(method, ratio)]
    arms += map(base.compressed, base.budgets)
    return Plan("Mean dims by frequency group", tuple(arms), shown="dims", figure="groups")


def pareto(base: Base) -> Plan:
    """AUC against bytes: AMTL, MDE and tables cut as trained at budgets, and FBE of as many dims."""
    arms = [base.method("fbe"), base.warmed("fbe"), *base.held()]
    for ratio in base.budgets:
        dim = max(1, round(ratio * base.cold.dim))
        arms.append(base.arm(f"fbe D={dim}", method="fbe", dim=dim))
    return Plan("AUC against bytes", tuple(arms), figure="pareto")


def planted(base: Base) -> Plan:
    """Who recovers a planted rank: `synthetic` data, whose ids have as many useful numbers as they are frequent.

    The oracle trains with the planted dims, "reversed" gives the most to the rarest ids. Principal order is measured
    on the FBE run, without training.

    Raises:
        InputError: the data has no planted rank.
    """
    name, _, options = str(base.cold.data).partition(":")
    if name != "synthetic":
        raise InputError("experiment planted needs data with a planted rank", found=name, allowed="synthetic:…")
    config = SyntheticConfig.parse(options)
    truth = functools.partial(planted_rank, config)
    arms = [base.method("fbe")]
    for name, reverse in (("oracle dims", False), ("reversed dims", True)):
        arms.append(replace(base.arm(name, method="cut"), prepare=fixed_dims(truth, reverse=reverse)))
    arms += [base.method("amtl"), base.warmed("amtl")]
    for ratio in base.budgets:
        arms += [base.method("amtl", ratio), base.warmed("amtl", ratio)]
        arms.append(base.compressed(ratio))
    return Plan("Who recovers a planted rank", tuple(arms), "dims", "groups", None, truth, "the planted rank")


def _one_candidate(base: Base) -> Arm:
    """AutoEmb with nothing to choose: what its transformations cost or gain by themselves."""
    return base.arm("autoemb D alone", method="autoemb", candidates=(1.0,))


def backbones(base: Base) -> Plan:
    """FBE on every backbone that needs no sequence."""
    names = [name for name in BACKBONE_NAMES if name not in ATTENDING]
    return Plan("FBE by backbone", tuple(base.arm(name, method="fbe", backbone=name) for name in names))


def settings(base: Base) -> Plan:
    """What each setting of AMTL does to dims and AUC, one changed at a time."""
    arms = [base.method("amtl")]
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
        arms.append(base.arm(name, method="amtl", selection=replace(base.cold.selection, **changes)))
    others: dict[str, dict[str, Any]] = {
        "selection lr 0.1x": {"selection_lr": base.cold.lr / 10},
        "selection lr 10x": {"selection_lr": min(base.cold.lr * 10, 0.5)},
        "selection L2 1e-3": {"selection_decay": 1e-3},
        "backbone L2 1e-5": {"weight_decay": 1e-5},
        "table L2 1e-6": {"embedding_decay": 1e-6},
    }
    arms += [base.arm(name, method="amtl", **changes) for name, changes in others.items()]
    return Plan("What each setting does to AMTL's dims", tuple(arms), shown="dims")


PLANS: dict[str, Callable[[Base], Plan]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "fig3": fig3,
    "pareto": pareto,
    "warm": warm,
    "planted": planted,
    "backbones": backbones,
    "settings": settings,
}


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with the named arms, and those that they need: what they start from, and the baseline.

    Raises:
        InputError: it has no such arm.
    """
    arms = {arm.name: arm for arm in plan.arms}
    if unknown := [name for name in names if name not in arms]:
        raise InputError("the experiment has no such arm", found=", ".join(unknown), allowed=", ".join(arms))
    needed = {*names, plan.baseline or plan.arms[0].name}
    needed |= {source for name in needed if (source := arms[name].warm_from) is not None}
    return replace(plan, arms=tuple(arm for arm in plan.arms if arm.name in needed))


def make_plan(name: str, base: TrainConfig, budgets: Sequence[float], warm_epochs: int | None = None) -> Plan:
    """The plan of an experiment.

    Args:
        name: one of `PLANS`.
        base: what its arms have in common.
        budgets: mean dims as parts of D.
        warm_epochs: of arms that start from a run, if they differ.

    Raises:
        InputError: unknown name, a budget out of range, or data that the experiment has no use for.
    """
    if name not in PLANS:
        raise InputError("unknown experiment", found=repr(name), allowed=", ".join(PLANS))
    warm = base if warm_epochs is None else replace(base, epochs=warm_epochs)
    return PLANS[name](Base(base, warm, tuple(budgets)))
