import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.data.catalog import open_source
from amtl_export.data.encode import encode
from amtl_export.errors import InputError
from amtl_export.models.config import SelectionConfig
from amtl_export.training.batches import shuffled
from amtl_export.training.checkpoint import latest
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.observer import Silent
from amtl_export.training.run import Run, build_model, load_run, model_config_for
from amtl_export.training.state import TrainState
from amtl_export.training.working import partial_folder

Make = Callable[..., TrainConfig]


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


class StopAfter(Silent):
    """Interrupts as a user would, in the middle of the epoch after `epochs`."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.steps = epochs, 0

    def epoch_started(self, epoch: int, steps: int) -> None:
        self.steps = 0 if epoch <= self.epochs else 1

    def step(self, loss: float, examples: int) -> None:
        if self.steps:
            self.steps += 1
            if self.steps > 3:
                raise KeyboardInterrupt


class Epochs(Silent):
    """Epochs that were run."""

    def __init__(self) -> None:
        self.run: list[int] = []

    def epoch_finished(self, record: dict[str, Any]) -> None:
        self.run.append(record["epoch"])


def test_a_run_holds_what_the_design_fixes(run: Run) -> None:
    files = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert {"config.json", "schema.json", "model.safetensors", "metrics.json", "history.jsonl"} <= files
    assert {f"vocab/{name}.parquet" for name in ("user", "item", "segment", "tags")} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".pth")) or "/train/" in name]
    keys = "method backbone data seed epochs best_epoch auc_valid auc_test logloss_test avg_dim avg_dim_ratio fields"
    assert set(keys.split()) | {"epoch_seconds", "params_embedding"} <= set(run.metrics)
    assert set(run.metrics["fields"]["user"]) == {"vocab", "dim", "avg_dim"}
    assert len(run.history()) == run.metrics["epochs"]
    assert not partial_folder(run.path).exists()


@pytest.mark.parametrize("changes", [{}, {"method": "fbe"}, {"sparse": True}, {"method": "aml", "dim_budget": 0.5}])
def test_a_seed_reproduces_every_bit(tmp_path: Path, tiny_train: Make, changes: dict[str, Any]) -> None:
    for name in ("a", "b"):
        train(tiny_train(epochs=1, **changes), tmp_path / name)
    train(tiny_train(epochs=1, seed=1, **changes), tmp_path / "c")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sparse": True, "embedding_decay": 1e-3},
        {"sparse": True, "table_optimizer": "rowwise-adagrad", "table_lr": 0.02},
        {"method": "fbe", "table_optimizer": "rowwise-adagrad", "backbone": "deepfm", "lr_decay": 0.5},
        {"dim_budget": 0.3, "selection": SelectionConfig(temperature=5.0, temperature_end=0.1)},
        {"method": "autoemb"},
        {"method": "cut", "dim_budget": 0.5},
        {"select_on": "valid", "dim_budget": 0.3},
    ],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    tmp_path: Path, tiny_train: Make, changes: dict[str, Any]
) -> None:
    config = tiny_train(epochs=3, **changes)
    whole = train(config, tmp_path / "whole")
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts", observer=StopAfter(epochs))
        assert latest(partial_folder(tmp_path / "parts")) is not None
        assert not (tmp_path / "parts").exists()
    resumed = train(config, tmp_path / "parts")
    assert weights(resumed.path) == weights(whole.path)
    assert [r["auc_valid"] for r in resumed.history()] == [r["auc_valid"] for r in whole.history()]
    assert not partial_folder(resumed.path).exists()


def test_encoded_rows_of_another_type_are_refused(tmp_path: Path, tiny_train: Make) -> None:
    config = tiny_train(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", observer=StopAfter(1))
    file = partial_folder(tmp_path / "run") / "data" / "train" / "ids.npy"
    stored = np.load(file)
    np.save(file, stored.astype(np.int32))
    with pytest.raises(InputError, match=r"(?s)encoded ids do not fit.*train/ids\.npy.*int32.*bytes a row"):
        train(config, tmp_path / "run")
    np.save(file, stored)
    train(config, tmp_path / "run")


@pytest.mark.parametrize("torn", ["history", "checkpoint-1", "checkpoint-2", "train"])
def test_an_interruption_while_files_are_written_or_removed(
    tmp_path: Path, tiny_train: Make, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    config = tiny_train(epochs=2)
    whole = train(config, tmp_path / "whole")
    write, remove, left = Path.write_text, shutil.rmtree, ["once"]

    def half_written(path: Path, text: str, **how: Any) -> int:
        if torn == "history" and torn in path.name and text.count("\n") == 2 and left:
            left.clear()
            path.open("w").close()
            raise KeyboardInterrupt
        return write(path, text, **how)

    def half_removed(path: Any, *given: Any, **how: Any) -> None:
        if Path(path).name in (torn, f".{torn}.part") and Path(path).is_dir() and left:
            left.clear()
            max(Path(path).iterdir()).unlink()
            raise KeyboardInterrupt
        remove(path, *given, **how)

    monkeypatch.setattr(Path, "write_text", half_written)
    monkeypatch.setattr(shutil, "rmtree", half_removed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "torn")
    assert not left
    again = Epochs()
    assert weights(train(config, tmp_path / "torn", observer=again).path) == weights(whole.path)
    assert again.run == ([2] if torn == "history" else [])
    assert not partial_folder(tmp_path / "torn").exists()


def test_a_run_that_was_not_published_is_published(tmp_path: Path, tiny_train: Make) -> None:
    config = tiny_train(epochs=1)
    whole = train(config, tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "run.partial")
    with pytest.raises(InputError, match=r"lr 0.001 → 0.01"):
        train(replace(config, lr=0.01), tmp_path / "run")
    again = Epochs()
    assert weights(train(config, tmp_path / "run", observer=again).path) == weights(whole.path)
    assert again.run == []


def test_a_damaged_run_that_was_not_published_is_not(tmp_path: Path, tiny_train: Make) -> None:
    config = tiny_train(epochs=1)
    work = Path(shutil.copytree(train(config, tmp_path / "whole").path, tmp_path / "run.partial"))
    file = work / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"truncated or corrupted\n  where: .*model\.safetensors"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert file.is_file()


def test_an_interruption_before_the_first_epoch_leaves_nothing(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_train(), tmp_path / "run", observer=StopAfter(0))
    assert list(tmp_path.iterdir()) == []


def test_other_settings_do_not_take_over_an_unfinished_training(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_train(), tmp_path / "run", observer=StopAfter(1))
    with pytest.raises(InputError, match=r"lr 0.001 → 0.01"):
        train(tiny_train(lr=0.01), tmp_path / "run")
    finished = train(tiny_train(lr=0.01), tmp_path / "run", overwrite=True)
    assert finished.train.lr == 0.01


def test_a_corrupted_checkpoint_is_named(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_train(), tmp_path / "run", observer=StopAfter(1))
    checkpoint = latest(partial_folder(tmp_path / "run"))
    assert checkpoint is not None
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"truncated or corrupted\n  where: .*state\.safetensors"):
        train(tiny_train(), tmp_path / "run")
    assert file.exists()


def test_bad_data_leaves_nothing(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(InputError, match="no such data"):
        train(tiny_train(data=str(tmp_path / "nowhere")), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["no run", "another D"])
def test_a_wrong_start_is_told_before_the_data_is_read(
    wrong: str, tmp_path: Path, fbe_run: Run, tiny_train: Make
) -> None:
    class ReadsNothing(Silent):
        def rows_read(self, stage: str, rows: int, seconds: float, done: bool) -> None:
            pytest.fail("rows were read")

    start = tmp_path / "absent" if wrong == "no run" else fbe_run.path
    config = tiny_train(warm_start=start, dim=12 if wrong == "no run" else 8)
    with pytest.raises(InputError, match="no such run" if wrong == "no run" else "another D"):
        train(config, tmp_path / "out" / "run", observer=ReadsNothing())


def test_warm_start_takes_rows_by_value_and_hidden_layers(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    data = "synthetic:rows=3000,values=120,rank=4,tags=12"
    config = tiny_train(data=data, epochs=1, lr=1e-12, warm_start=str(fbe_run.path), warm_order="as-is")
    warm = train(config, tmp_path / "warm", observer=Notes())
    assert any(note.startswith("warm start: user:") for note in notes)
    table = warm.model.get_parameter("embedding.table.weight")
    earlier = fbe_run.model.get_parameter("embedding.table.weight")
    for field, name in enumerate(("user", "item")):
        value = int(warm.vocabularies[name].values[5])
        old = int(fbe_run.vocabularies[name].encode(warm.vocabularies[name].values[5:6])[0])
        assert old > 0, value
        own = table[warm.model.method.offsets[field] + 7]
        torch.testing.assert_close(own, earlier[fbe_run.model.method.offsets[field] + old], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        warm.model.get_parameter("backbone.layers.1.weight"),
        fbe_run.model.get_parameter("backbone.layers.1.weight"),
        atol=1e-6,
        rtol=0,
    )


def test_warm_start_needs_the_same_dim(tmp_path: Path, fbe_run: Run, tiny_train: Make) -> None:
    with pytest.raises(InputError, match="dim=12"):
        train(tiny_train(dim=8, warm_start=str(fbe_run.path)), tmp_path / "warm")


def test_divergence_is_an_error(tmp_path: Path, tiny_train: Make) -> None:
    with pytest.raises(InputError, match="diverged"):
        train(tiny_train(lr=0.999, embedding_decay=1e39), tmp_path / "run")
    with pytest.raises(InputError, match="selection network"):
        train(tiny_train(selection_lr=0.999, selection_decay=1e39), tmp_path / "run")


@given(st.integers(1, 300_000), st.integers(1, 70_000), st.integers(0, 3))
def test_shuffling_visits_each_row_once(count: int, batch: int, epoch: int) -> None:
    parts = list(shuffled(count, batch, 0, epoch))
    assert all(len(part) == batch for part in parts[:-1])
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("model.safetensors", lambda b: b[:-50], "truncated or corrupted"),
        ("model.safetensors", lambda b: b"\xff" * 8 + b[8:], "truncated or corrupted"),
        ("config.json", lambda b: b[:40], "does not hold JSON"),
        ("config.json", lambda b: b.replace(b'"kind": "run"', b'"kind": "pie"'), "not a run"),
        ("config.json", lambda b: b.replace(b'"dim": 12', b'"dim": 13'), "another shape"),
        ("schema.json", lambda b: b.replace(b'"name": "user"', b'"name": "item"', 1), "named twice"),
        ("vocab/user.parquet", lambda b: b[:-9], "truncated"),
    ],
)
def test_a_spoilt_run_is_named(run_copy: Path, name: str, spoil: Callable[[bytes], bytes], says: str) -> None:
    file = run_copy / name
    before = file.read_bytes()
    file.write_bytes(spoil(before))
    assert file.read_bytes() != before
    with pytest.raises(InputError, match=says) as caught:
        load_run(run_copy)
    assert str(run_copy) in str(caught.value)


def test_a_weight_that_is_not_finite_is_named(run_copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(run_copy / "model.safetensors")
    tensors["backbone.layers.1.bias"][3] = float("nan")
    save_file(tensors, run_copy / "model.safetensors")
    with pytest.raises(InputError, match=r"backbone\.layers\.1\.bias\n  found: 1 of 16"):
        load_run(run_copy)


def test_config_survives_json(tiny_train: Make) -> None:
    config = tiny_train(warm_start="x", selection_lr=0.1)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json())), "x") == config


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0},
        {"dim": 0},
        {"epochs": 0},
        {"method": "x"},
        {"dropout": 1.0},
        {"dim_budget": 0.01},
        {"mde_alpha": 2.0},
        {"candidates": ()},
    ],
)
def test_config_refuses_bad_values(tiny_train: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        tiny_train(**changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"method": "autoemb"}, "embedding.selections.0.controller.0.weight"),
        ({"method": "amtl", "select_on": "valid", "dim_budget": 0.5}, "embedding.selectors.0.high.0.weight"),
    ],
)
def test_a_controller_learns_from_validation_rows_only(
    tmp_path: Path, tiny_train: Make, changes: dict[str, Any], name: str
) -> None:
    config = tiny_train(**changes, epochs=1)
    encoded = encode(open_source(config.data), tmp_path / "data", 0)
    after = []
    for lr in (1e-12, 1e-2):
        torch.manual_seed(0)
        state = TrainState.start(
            build_model(model_config_for(config, encoded), encoded.vocabularies), replace(config, selection_lr=lr)
        )
        before = state.model.get_parameter(name).detach().clone()
        state.run_epoch(encoded, Silent())
        after.append(float((state.model.get_parameter(name).detach() - before).abs().max()))
        parameters = {id(p) for optimizer in state.optimizers for g in optimizer.param_groups for p in g["params"]}
        assert id(state.model.get_parameter(name)) not in parameters
    assert after[0] < 1e-6 < 1e-2 < after[1]


def test_the_temperature_follows_its_schedule(tiny_train: Make) -> None:
    selection = SelectionConfig(temperature=10.0, temperature_end=0.1)
    assert selection.temperature_at(1) == 10.0
    assert selection.temperature_at(10) == pytest.approx(0.1)
    assert selection.temperature_at(40) == pytest.approx(0.1)
    assert selection.temperature_at(4) / selection.temperature_at(3) == pytest.approx(0.01 ** (1 / 9))


def test_a_checkpoint_of_the_best_epoch_stores_its_weights_once(tmp_path: Path, tiny_train: Make) -> None:
    class Look(StopAfter):
        def epoch_finished(self, record: dict[str, Any]) -> None:
            checkpoint = latest(partial_folder(tmp_path / "run"))
            assert checkpoint is not None
            progress = json.loads((checkpoint / "progress.json").read_text())
            model, best = (checkpoint / f"{name}.safetensors" for name in ("model", "best"))
            seen.append((progress["best_epoch"] == progress["epoch"], best.samefile(model), best.read_bytes()))
            super().epoch_finished(record)

    seen: list[tuple[bool, bool, bytes]] = []
    with pytest.raises(KeyboardInterrupt):
        train(tiny_train(epochs=6, patience=6, lr=0.05), tmp_path / "run", observer=Look(3))
    run = train(tiny_train(epochs=6, patience=6, lr=0.05), tmp_path / "run", observer=Look(6))
    assert [is_best for is_best, *_ in seen] == [linked for _, linked, _ in seen]
    assert len({is_best for is_best, *_ in seen}) == 2, "the settings give epochs that are best and others"
    last_best = max(number for number, (is_best, *_) in enumerate(seen) if is_best)
    assert run.metrics["best_epoch"] == last_best + 1
    assert all(stored == seen[last_best][2] for *_, stored in seen[last_best:])
    assert weights(run.path) == seen[last_best][2]


def test_two_trainings_of_one_folder_do_not_meet(tmp_path: Path, tiny_train: Make) -> None:
    class Second(Silent):
        """Starts the same training in another thread while the first one is in its epoch."""

        def epoch_started(self, epoch: int, steps: int) -> None:
            with ThreadPoolExecutor(1) as other:
                said.append(str(other.submit(train, config, tmp_path / "run").exception()))

    said: list[str] = []
    config = tiny_train(epochs=1)
    run = train(config, tmp_path / "run", observer=Second())
    assert len(said) == 1
    assert f"another process is working on the output folder\n  where: {tmp_path / 'run'}" in said[0]
    assert weights(run.path) == weights(train(config, tmp_path / "alone").path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "run"]
