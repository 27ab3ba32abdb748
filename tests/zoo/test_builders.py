"""The models of the zoo build, and answer batches of both sizes that the export is tried with."""

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo"
sys.path.insert(0, str(HERE))
registry: Any = importlib.import_module("registry")
entry: Any = importlib.import_module("entry")

# The libraries warn of what torch, numpy and pandas deprecate; nothing here can change that.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=list(registry.LIBRARIES))
def library(request: pytest.FixtureRequest) -> list[Any]:
    try:
        found: list[Any] = registry.models(request.param)
    except ImportError as error:
        pytest.skip(f"{request.param} is not installed: {error}")
    return found


def test_every_model_builds_and_runs(library: list[Any]) -> None:
    for model in library:
        module = model.module()
        assert not module.training, model.key
        assert entry.tables(module), f"{model.key}: no table to attach to"
        for rows in (16, 77):
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = _pytree.tree_leaves(module(**model.inputs(rows)))
            assert len(answers[0]) == rows, model.key
            assert bool(torch.isfinite(answers[0]).all()), model.key
            assert float(answers[0].std()) > 1e-4, f"{model.key}: every example has the same answer"


def test_a_seed_gives_the_same_model_and_batch(library: list[Any]) -> None:
    model = library[0]
    with torch.no_grad():
        one, other = (_pytree.tree_leaves(model.module()(**model.inputs(5))) for _ in range(2))
    assert torch.equal(one[0], other[0])


def test_names_are_unique(library: list[Any]) -> None:
    names = [model.key for model in library]
    assert len(set(names)) == len(names)


def test_ids_are_skewed_and_in_range() -> None:
    torch.manual_seed(0)
    ids = entry.zipf(1000, 20_000)
    assert int(ids.min()) == 0
    assert int(ids.max()) == 999
    assert float((ids < 30).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_history_is_padded_with_zeros_at_its_end() -> None:
    torch.manual_seed(0)
    ids, lengths = entry.history(50, 200, 7)
    assert ((ids > 0) == (torch.arange(7) < lengths[:, None])).all()
