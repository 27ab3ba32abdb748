"""What AUC and GAUC may differ: on a small split the pairs that roundings can turn round, and nothing more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.freezing.frozen import freeze
from amtl_export.freezing.labelled import Beside
from amtl_export.freezing.scores import Scored, Scores
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances
from amtl_export.validation.worth import held

Floats = np.ndarray[Any, np.dtype[np.float64]]
TIGHT = 1e-12

examples = st.lists(
    st.tuples(
        st.integers(-3, 3), st.integers(-2, 2), st.booleans(), st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 8.0])
    ),
    min_size=2,
    max_size=30,
).filter(lambda rows: len({label for _, _, label, _, weight in rows if weight}) == 2)


@given(examples, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.5]))
def test_no_move_reaches_further(rows: list[Any], weighted: bool, grouped: bool, step: float) -> None:
    """Scores on a grid, moved along it: ties come and go."""
    z, move, label, group, weight = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    beside = Beside(group.astype(np.uint64) if grouped else None, weight if weighted else None)
    if not weighted and len(set(label)) < 2:
        return
    before, after = (Scores.of(Scored(own, label, beside), "logit") for own in (z, z + step * move))
    reach = before.reach(after.values, np.full(len(z), np.inf))
    assert all(own >= -TIGHT for own in (reach.losses[0], reach.gains[0]))
    assert -reach.losses[0] - TIGHT <= after.auc - before.auc <= reach.gains[0] + TIGHT
    if before.gauc_groups:
        assert -reach.losses[1] - TIGHT <= after.gauc - before.gauc <= reach.gains[1] + TIGHT
    else:
        assert np.isnan([*reach.losses[1:], *reach.gains[1:]]).all()
    still = before.reach(before.values, np.full(len(z), np.inf))
    assert [still.losses[0], still.gains[0]] == pytest.approx([0, 0], abs=TIGHT)


def scores(values: list[float], label: list[int], group: list[int] | None = None, weight: Any = None) -> Scores:
    beside = Beside(None if group is None else np.array(group), None if weight is None else np.array(weight))
    return Scores.of(Scored(np.array(values, dtype=np.float32), np.array(label, dtype=np.float64), beside), "logit")


#: Ten examples; 0 and 1 are a pair that is as near as a rounding.
LABEL = [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
NEAR = [0.5, 0.5 + 6e-8, -1, 2, 1.5, -2, 0.1, 0.3, 0.9, -0.7]
TURNED = [0.5 + 6e-8, 0.5, *NEAR[2:]]
FAR = [0.5, 0.5 + 6e-8, -1, 2, 1.5, -2, 0.35, 0.3, 0.9, -0.7]


@pytest.mark.parametrize("group", [None, [1, 1, 1, 1, 1, 2, 2, 2, 2, 3]])
@pytest.mark.parametrize("weight", [None, [4.0, 4, 1, 1, 0.5, 1, 1, 1, 0, 1]])
def test_a_near_tie_may_turn_round_and_no_other_pair(group: Any, weight: Any) -> None:
    before, turned, far = (scores(own, LABEL, group, weight) for own in (NEAR, TURNED, FAR))
    metrics = held(before, before, turned, 1.0, Tolerances(), "fp32")
    assert [own.name for own in metrics] == ["AUC", *(["GAUC"] if group else [])]
    for own in metrics:
        assert own.difference > 1e-3  # a pair of so few examples
        assert own.problem("optimised") == ""
        assert own.allowed == pytest.approx(own.difference + 1e-6)  # that pair alone
    for own in held(before, before, far, 1.0, Tolerances(), "fp32"):
        assert own.problem("optimised").startswith(f"{own.name} differs by ")
        assert own.allowed < own.difference


def test_a_given_tolerance_is_all_that_is_allowed() -> None:
    before, turned = scores(NEAR, LABEL), scores(TURNED, LABEL)
    (own,) = held(before, before, turned, 1.0, Tolerances(auc_atol=1e-3), "fp32")
    assert own.allowed == 1e-3
    assert own.problem("optimised") == "AUC differs by 0.04 (optimised); allowed 0.001; auc_atol=0.04 would have passed"
    (own,) = held(before, before, turned, 1.0, Tolerances(auc_atol=0.0404), "fp32")
    assert own.problem("optimised") == ""


def test_a_large_score_may_be_rounded_by_its_own_size() -> None:
    """1,000 and its neighbour in float32: 6e-5 apart, which is no difference to the tenth of a tolerance of 1e-4."""
    values = [1000.0, float(np.nextafter(np.float32(1000), np.float32(2000))), *NEAR[2:]]
    before, turned = scores(values, LABEL), scores([values[1], values[0], *values[2:]], LABEL)
    (own,) = held(before, before, turned, 1.0, Tolerances(), "fp32")
    assert own.difference == pytest.approx(0.04)
    assert own.problem("optimised") == ""


def test_infinite_scores_and_a_nan_of_the_graph() -> None:
    values = [float("inf"), -float("inf"), *NEAR[2:]]
    before = scores(values, LABEL)
    (own,) = held(before, before, before, 1.0, Tolerances(), "fp32")
    assert own.problem("optimised") == ""
    (own,) = held(before, before, scores([float("nan"), *values[1:]], LABEL), 1.0, Tolerances(), "fp32")
    assert "AUC differs by nan" in own.problem("optimised")
    assert held(scores(NEAR, [1] * 10), before, before, 1.0, Tolerances(), "fp32") == []


SCHEMA = """
label = "y"
group = "user"
weight = "w"
[split]
rule = "column"
column = "part"
"""


def small_split(folder: Path) -> Path:
    """Test rows that are few, in few groups, and whose scores are bunched, as nothing is learned."""
    rng = np.random.default_rng(12)
    fields = "abcdefgh"
    n = 2437
    values = rng.integers(0, 2, (n, len(fields)))
    part = np.where(np.arange(n) < 1000, "train", np.where(np.arange(n) < 2000, "valid", "test"))
    label, user, weight = (rng.random(n) < 0.2).astype(int), rng.integers(0, 9, n), rng.integers(1, 5, n)
    lines = [",".join(map(str, (*v, *rest))) for v, *rest in zip(values, label, part, user, weight, strict=True)]
    folder.mkdir()
    (folder / "rows.csv").write_text("\n".join([f"{','.join(fields)},y,part,user,w", *lines]) + "\n")
    named = "".join(f'[[field]]\nname = "{name}"\nkind = "categorical"\n' for name in fields)
    (folder / "schema.toml").write_text(SCHEMA + named)
    return folder


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory, tiny_train: Callable[..., TrainConfig]) -> Run:
    folder = tmp_path_factory.mktemp("small")
    config = tiny_train(data=str(small_split(folder / "data")), method="fbe", backbone="dcnv2", epochs=1, lr=1e-12)
    return train(config, folder / "run")


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_sound_bundle_passes_on_a_small_split(tmp_path: Path, small_run: Run, dtype: Any) -> None:
    layout: Any = "dense" if dtype == "fp32" else "ragged"
    bundle = export(freeze(small_run), tmp_path / "b", ExportConfig(layout, dtype=dtype))
    tolerances = Tolerances() if dtype == "fp32" else Tolerances(auc_atol=0.5)
    verdict = validate(bundle.path, small_run.path, tolerances=tolerances)
    assert verdict.problems == []
    assert verdict.weighted
    assert verdict.auc_torch == pytest.approx(small_run.metrics["auc_test"], abs=1e-12)
    assert verdict.logloss_torch == pytest.approx(small_run.metrics["logloss_test"], rel=1e-6)
    assert verdict.gauc_torch == pytest.approx(small_run.metrics["gauc_test"], abs=1e-12)
    assert verdict.gauc_groups == small_run.metrics["gauc_groups_test"] == 9
    assert verdict.gauc_onnx == pytest.approx(verdict.gauc_torch, abs=0.1)
    assert verdict.abs_delta_gauc == abs(verdict.gauc_onnx - verdict.gauc_torch)  # type: ignore[operator]


def test_another_model_of_the_same_shape_fails_by_gauc_too(
    tmp_path: Path, small_run: Run, tiny_train: Callable[..., TrainConfig]
) -> None:
    config = tiny_train(data=small_run.train.data, method="fbe", backbone="dcnv2", epochs=1, seed=3)
    other = train(config, tmp_path / "other")
    bundle = export(freeze(small_run), tmp_path / "b", ExportConfig("dense"))
    problems = validate(bundle.path, other.path).problems
    assert any(line.startswith("AUC differs by") for line in problems)
    assert any(line.startswith("GAUC differs by") for line in problems)
