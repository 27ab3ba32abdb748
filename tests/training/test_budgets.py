"""Methods that are held to a budget of dims, or cut what was trained whole."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from amtl_export.errors import InputError
from amtl_export.models.config import MixedConfig
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run, load_run

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize("method", ["amtl", "aml", "amtl_nste"])
@pytest.mark.parametrize("ratio", [0.1, 0.4])
def test_a_dim_budget_is_kept_in_every_epoch(tmp_path: Path, tiny_train: Make, method: str, ratio: float) -> None:
    run = train(tiny_train(method=method, dim_budget=ratio), tmp_path / "run")
    assert 1 / 12 <= run.metrics["avg_dim_ratio"] <= ratio
    assert all(record["avg_dim"] <= 12 * ratio for record in run.history())
    assert run.metrics["dim_budget"] == ratio
    assert ("auc_test_soft" in run.metrics) == (method == "amtl_nste")


def test_mde_keeps_a_dim_budget_by_how_it_is_built(tmp_path: Path, tiny_train: Make) -> None:
    run = train(tiny_train(method="mde", dim_budget=0.5, mde_blocks=3, mde_alpha=0.5, epochs=1), tmp_path / "run")
    assert 0.3 < run.metrics["avg_dim_ratio"] <= 0.5
    assert load_run(run.path).model_config.mixed == MixedConfig(blocks=3, alpha=0.5, ratio=0.5)


def test_cut_prunes_what_was_trained_whole(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    pruned = train(tiny_train(method="cut", dim_budget=0.4), tmp_path / "run")
    assert [r["auc_valid"] for r in pruned.history()] == [r["auc_valid"] for r in fbe_run.history()]
    assert pruned.metrics["avg_dim_ratio"] <= 0.4
    assert pruned.metrics["auc_valid"] < fbe_run.metrics["auc_valid"]
    kept = torch.arange(12) < pruned.model.method.frozen_dims().unsqueeze(1)
    whole = fbe_run.model.get_parameter("embedding.table.weight")
    assert torch.equal(pruned.model.embedding.frozen_rows(), torch.where(kept, whole, 0.0))  # type: ignore[operator]


def test_cut_trains_on_with_what_a_warm_start_leaves(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    config = tiny_train(method="cut", dim_budget=0.4, warm_start=str(fbe_run.path))
    tuned = train(config, tmp_path / "run")
    dims = tuned.model.method.frozen_dims()
    assert all(record["avg_dim"] == tuned.metrics["avg_dim"] <= 0.4 * 12 for record in tuned.history())
    past = torch.arange(12) >= dims.unsqueeze(1)
    now, before = (run.model.get_parameter("embedding.table.weight") for run in (tuned, fbe_run))
    assert torch.equal(now[past], before[past])  # what was cut learned nothing more
    assert not torch.equal(now[~past], before[~past])


def test_no_epoch_takes_a_warm_start_as_it_is(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    pruned = train(tiny_train(method="cut", dim_budget=0.4), tmp_path / "pruned")
    config = tiny_train(method="cut", dim_budget=0.4, warm_start=str(fbe_run.path), epochs=0)
    taken = train(config, tmp_path / "taken")
    assert taken.history() == []
    for key in ("auc_valid", "auc_test", "avg_dim"):
        assert taken.metrics[key] == pruned.metrics[key]
    with pytest.raises(InputError, match="epochs"):
        tiny_train(epochs=0)


def test_a_dim_budget_needs_a_method_that_selects(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(InputError, match=r"needs a method that selects dims\n  found: fbe"):
        train(tiny_train(method="fbe", dim_budget=0.5), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_generous_budget_changes_no_dims(tmp_path: Path, tiny_train: Make) -> None:
    """The penalty's weight stays 0 while the mean dims are below the budget."""
    free = train(tiny_train(epochs=1), tmp_path / "free")
    held = train(tiny_train(epochs=1, dim_budget=1.0), tmp_path / "held")
    assert held.metrics["avg_dim"] == free.metrics["avg_dim"]
