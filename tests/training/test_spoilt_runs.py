"""A run, or an unfinished training, that somebody edited: an error that names the file, or exactly the same result."""

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from attack.spoil import RUNS

from amtl_export.errors import AmtlError, InputError
from amtl_export.freezing.folder import load_frozen, save_frozen
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent
from amtl_export.training.run import Run, load_run


class Stop(Silent):
    """Ends the process's work as an interruption does."""

    def epoch_finished(self, record: dict[str, Any]) -> None:
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def rows_of_run(folder: Path) -> Any:
    return load_run(folder).rows("test")


def outcome(work: Callable[[], Any]) -> tuple[Any, str]:
    """What it gives, or None and why it refuses; any other error is one of the test."""
    try:
        return work(), ""
    except AmtlError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def config(tiny_train: Callable[..., TrainConfig]) -> TrainConfig:
    return tiny_train(data="synthetic:rows=1000,values=40,rank=4,tags=6", dim=4, epochs=2, method="amtl")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, config: TrainConfig) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, observer=Stop())
    return out.with_name("run.partial")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: TrainConfig) -> bytes:
    return (train(config, tmp_path_factory.mktemp("whole") / "run").path / "model.safetensors").read_bytes()


def progress_of(folder: Path) -> Path:
    (file,) = folder.glob("checkpoint-*/progress.json")
    return file


@pytest.mark.parametrize("value", [{"a": 1}, "1", None, -1, 10**30, 1e300, [], True, [1, "a"], 99])
def test_progress_that_was_edited(
    stopped: Path, config: TrainConfig, whole: bytes, tmp_path: Path, value: object
) -> None:
    keys = json.loads(progress_of(stopped).read_text())
    for key in keys:
        folder = Path(shutil.copytree(stopped, tmp_path / key / "run.partial"))
        file = progress_of(folder)
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        resumed, refusal = outcome(partial(train, config, tmp_path / key / "run"))
        if resumed is None:
            assert "progress.json" in refusal
            assert key in refusal
        else:  # of the number of an epoch's seconds, or of a penalty that there is none of
            assert (resumed.path / "model.safetensors").read_bytes() == whole


def test_progress_with_other_keys(stopped: Path, config: TrainConfig, tmp_path: Path) -> None:
    was = json.loads(progress_of(stopped).read_text())
    for number, values in enumerate([{k: v for k, v in was.items() if k != key} for key in was] + [was | {"more": 1}]):
        folder = Path(shutil.copytree(stopped, tmp_path / f"{number}" / "run.partial"))
        progress_of(folder).write_text(json.dumps(values))
        with pytest.raises(InputError, match=r"progress\.json"):
            train(config, tmp_path / f"{number}" / "run")


def test_statistics_of_other_fields_are_refused(stopped: Path, config: TrainConfig, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run.partial"))
    file = folder / "data" / "stats.json"
    was = file.read_text()
    file.write_text(was.replace('"age"', '"years"'))
    assert file.read_text() != was
    with pytest.raises(InputError, match=r"(?s)other fields.*stats\.json.*age, years"):
        train(config, tmp_path / "run")


def test_a_state_that_was_edited(stopped: Path, config: TrainConfig, tmp_path: Path) -> None:
    for number, (file, start) in enumerate((("state", "rng"), ("state", "optimizer/"), ("model", ""), ("best", ""))):
        was = safetensors.torch.load_file(progress_of(stopped).with_name(f"{file}.safetensors"))
        name = next(name for name in was if name.startswith(start))
        for how, changed in enumerate(
            (None, was[name][:1].clone() if was[name].ndim else was[name][None], was[name].double())
        ):
            kept = {n: t for n, t in was.items() if n != name} | ({} if changed is None else {name: changed})
            place = tmp_path / f"{number}-{how}"
            folder = Path(shutil.copytree(stopped, place / "run.partial"))
            safetensors.torch.save_file(kept, progress_of(folder).with_name(f"{file}.safetensors"))
            with pytest.raises(InputError, match=rf"{file}\.safetensors"):
                train(config, place / "run")


def test_a_model_that_was_edited_is_not_gone_on_with(stopped: Path, config: TrainConfig, tmp_path: Path) -> None:
    """Another dropout fits every shape, and would be another training."""
    folder = Path(shutil.copytree(stopped, tmp_path / "run.partial"))
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(values | {"dropout": 0.5}))
    with pytest.raises(InputError, match=r"dropout: 0\.5"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("kind", sorted(RUNS))
def test_a_spoilt_run_opens_or_is_refused(run: Run, tmp_path: Path, kind: str) -> None:
    for seed in range(8):
        folder = Path(shutil.copytree(run.path, tmp_path / f"{seed}"))
        RUNS[kind](folder, random.Random(seed))
        rows, refusal = outcome(partial(rows_of_run, folder))
        assert refusal.replace("\n", "").isprintable() if rows is None else len(rows)


@pytest.mark.parametrize("kind", sorted(set(RUNS) - {"rows", "sums"}))
def test_a_spoilt_frozen_folder_opens_or_is_refused(frozen: FrozenModel, tmp_path: Path, kind: str) -> None:
    save_frozen(frozen, tmp_path / "sound")
    for seed in range(8):
        folder = Path(shutil.copytree(tmp_path / "sound", tmp_path / f"{seed}"))
        RUNS[kind](folder, random.Random(seed))
        opened, refusal = outcome(partial(freeze, folder))
        assert refusal.replace("\n", "").isprintable() if opened is None else opened.tables


@pytest.mark.parametrize("value", [0, 1, 2])
def test_labels_that_are_of_one_class_are_refused(run_copy: Path, value: int) -> None:
    file = run_copy / "data" / "test" / "labels.npy"
    labels = np.load(file)
    np.save(file, np.full_like(labels, value))
    with pytest.raises(InputError, match=r"labels\.npy"):
        rows_of_run(run_copy)


@pytest.mark.parametrize("text", [b"{'descr': '<i8', 'shape': (", b"   {\n  1", b"{'shape': (9" + b"9" * 40 + b",)}"])
def test_a_header_of_an_array_that_was_edited_is_refused(run_copy: Path, text: bytes) -> None:
    """numpy reads it as a piece of Python."""
    file = run_copy / "data" / "test" / "ids.npy"
    was = file.read_bytes()
    size = int.from_bytes(was[8:10], "little")
    file.write_bytes(was[:10] + text.ljust(size - 1)[: size - 1] + b"\n" + was[10 + size :])
    with pytest.raises(InputError, match=r"ids\.npy"):
        rows_of_run(run_copy)


def test_opening_a_run_draws_nothing(run: Run) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    load_run(run.path)
    assert torch.equal(torch.get_rng_state(), state)


def test_settings_of_a_larger_model_take_no_memory(run_copy: Path) -> None:
    values = json.loads((run_copy / "config.json").read_text())
    for key, value in (("dim", 10**9), ("hidden", [10**9, 8]), ("dim", 10**30)):
        changed = values | {"model": values["model"] | {key: value}}
        (run_copy / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"(?s)model's settings.*config\.json"):
            load_run(run_copy)


def test_a_vocabulary_that_was_edited_is_refused(run_copy: Path) -> None:
    import polars as pl

    file = run_copy / "vocab" / "user.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(pl.col("value").reverse().over("kind")).write_parquet(file)
    with pytest.raises(InputError, match="vocabularies changed"):
        load_run(run_copy)


def test_dims_that_are_no_numbers_are_refused(frozen: FrozenModel, tmp_path: Path) -> None:
    save_frozen(frozen, tmp_path / "f")
    file = tmp_path / "f" / "frozen.safetensors"
    was = safetensors.torch.load_file(file)
    (name,) = [name for name in was if name.endswith("dims")]
    for wrong in (was[name].float() * torch.nan, was[name] + 99, was[name][:-1]):
        safetensors.torch.save_file(was | {name: wrong.contiguous()}, file)
        with pytest.raises(InputError):
            load_frozen(tmp_path / "f")
