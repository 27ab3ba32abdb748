"""Paths are `str` or `Path`, everywhere in the Python interface."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import amtl_export
from amtl_export import ExportConfig, Run, TrainConfig

PUBLIC = [name for name in amtl_export.__all__ if inspect.isfunction(getattr(amtl_export, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_that_takes_a_path_takes_a_string(name: str) -> None:
    for parameter in inspect.signature(getattr(amtl_export, name)).parameters.values():
        kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
        assert "Path" not in kinds or "str" in kinds, parameter


def test_strings_from_training_to_answers(
    tmp_path: Path, tiny_train: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    amtl_export.train(tiny_train(), "run")
    run = amtl_export.load_run("run")
    frozen = amtl_export.freeze("run")
    amtl_export.save_frozen(frozen, "frozen")
    amtl_export.export(amtl_export.load_frozen("frozen"), "bundle", ExportConfig(layout="dense"))
    assert amtl_export.validate("bundle", "run").verdict == "pass"
    assert amtl_export.inspect("bundle")
    assert amtl_export.open_bundle("bundle").fields == [field.name for field in run.schema.embedded]
    assert amtl_export.load("bundle").metadata


def test_a_path_among_the_settings_is_stored_as_a_string(tmp_path: Path) -> None:
    config = TrainConfig(data=tmp_path / "data", path=tmp_path, warm_start=tmp_path / "run")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json())), "here") == config


def test_opening_a_run_leaves_the_random_numbers(run: Run) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    amtl_export.load_run(run.path)
    assert torch.equal(torch.rand(3), expected)
