"""Paths are `str` or `Path`, everywhere in the Python interface."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import amtl_export
from amtl_export import ExportConfig, Run, TrainConfig
from amtl_export.errors import InputError

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


def test_what_is_read_is_never_replaced(run_copy: Path, tmp_path: Path) -> None:
    """A mistyped `out`: the run, the frozen folder or the warm start is still there."""
    amtl_export.save_frozen(amtl_export.compress(run_copy, dim_budget=0.5, curve=False), tmp_path / "small")
    before = sorted(file.stat().st_size for file in run_copy.rglob("*") if file.is_file())
    config = replace(amtl_export.load_run(run_copy).train, method="amtl", warm_start=str(run_copy), epochs=1)
    writes: tuple[Callable[[], object], ...] = (
        lambda: amtl_export.export(run_copy, run_copy, overwrite=True),
        lambda: amtl_export.export(tmp_path / "small", run_copy, overwrite=True),
        lambda: amtl_export.export(tmp_path / "small", tmp_path / "small", overwrite=True),
        lambda: amtl_export.save_frozen(amtl_export.freeze(run_copy), run_copy, overwrite=True),
        lambda: amtl_export.train(config, run_copy, overwrite=True),
    )
    for write in writes:
        with pytest.raises(InputError, match="holds what is read"):
            write()
    assert sorted(file.stat().st_size for file in run_copy.rglob("*") if file.is_file()) == before
    assert amtl_export.load_run(run_copy).vocabularies
