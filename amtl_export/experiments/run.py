"""One experiment from its name to its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from amtl_export.bench.train import bench_train
from amtl_export.errors import InputError, os_errors
from amtl_export.experiments.plan import make_plan, only
from amtl_export.experiments.report import markdown, plot, speed_markdown
from amtl_export.experiments.spread import Spread
from amtl_export.experiments.sweep import summarise, sweep
from amtl_export.files import whole_file, write_json
from amtl_export.locks import locked
from amtl_export.training.config import TrainConfig

#: The methods of table 5, FBE first.
TIMED = ("fbe", "mde", "autoemb", "aml", "amtl_nste", "amtl")


def run_experiment(
    name: str,
    base: TrainConfig,
    seeds: Sequence[int],
    budgets: Sequence[float],
    out: Path,
    *,
    warm_epochs: int | None = None,
    arms: Sequence[str] = (),
    spread: Spread | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], str]:
    """Train what is not in `out/runs` yet, and write `out/NAME.json`, `.md` and, for some, `.png`.

    Args:
        name: one of `plan.PLANS`, or `table5`: seconds by method, timed in turns, `base.epochs` rounds (3 at most).
        base: data, sizes, rates; what an arm changes is the plan's.
        seeds: each arm is trained with each.
        budgets: mean dims as parts of D, for the arms that are held to one.
        out: the folder; shared by experiments.
        warm_epochs: of arms that start from a run, if they differ from `base.epochs`.
        arms: only these, and those that they need; all if empty.
        spread: where arms are trained, and how many at a time; one after the other in this process if not given.
        note: is told of each finished training.

    Returns:
        What the JSON file holds, and the Markdown table.

    Raises:
        InputError: unknown name, bad data, a run of other settings is in the way, or another process works in `out`; of
            an arm, says which. Others that were under way are ended; what is finished stays.
        EnvironmentLacks: no disk space, no permission, matplotlib is missing for a figure, Ray cannot be reached, or a
            process that trained an arm died.
    """
    with os_errors("working on an experiment", out), locked(out):
        if name == "table5":
            if spread is not None and spread.apart:
                raise InputError("table5 times trainings in turns, so it has no arms side by side", fix="leave it out")
            summary = bench_train(base, TIMED, epochs=min(base.epochs, 3), note=note)
            text = speed_markdown(summary)
            figure = None
        else:
            plan = make_plan(name, base, budgets, warm_epochs)
            plan = only(plan, arms) if arms else plan
            summary = summarise(name, plan, base, sweep(plan, seeds, out, spread, note=note))
            text, figure = markdown(summary), plan.figure
        out.mkdir(parents=True, exist_ok=True)
        with whole_file(out / f"{name}.json") as draft:
            write_json(draft, summary)
        with whole_file(out / f"{name}.md") as draft:
            draft.write_text(text, encoding="utf-8")
        if figure:
            plot(summary, out / f"{name}.png")
    return summary, text
