"""Weights reach every loss and metric; groups reach the metrics; notes say what cannot work."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from amtl_export.data.encode import Rows
from amtl_export.data.numeric_stats import NumericStats
from amtl_export.data.packed_ids import PackedIds, id_type
from amtl_export.metrics import auc, gauc, logloss
from amtl_export.training.batches import Batch, predict
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.measures import batch_loss, measured, notes
from amtl_export.training.observer import Silent
from amtl_export.training.run import Run

Make = Callable[..., TrainConfig]
Data = Callable[..., Path]
CPU = torch.device("cpu")


def rows_of(label: list[int], weight: list[float] | None) -> Rows:
    n = len(label)
    known = None if weight is None else np.array(weight, dtype=np.float32)
    labels = np.array([label], np.uint8).T
    return Rows(
        PackedIds(np.zeros((n, 1), np.uint8), (id_type(4),)), np.zeros((n, 0), np.float32), {}, labels, None, known
    )


def test_whole_weights_are_repetitions() -> None:
    label, weight = [1, 0, 1, 0], [3, 1, 0, 2]
    logit = torch.tensor([0.3, -0.2, 1.5, 2.0], requires_grad=True)
    again = torch.repeat_interleave(torch.tensor(weight))
    index = torch.repeat_interleave(torch.arange(4), torch.tensor(weight))
    weighted = batch_loss(logit, Batch.of(rows_of(label, [float(w) for w in weight]), CPU))
    plain = F.binary_cross_entropy_with_logits(logit[index], torch.tensor(label)[index].float())
    assert len(again) == 6
    torch.testing.assert_close(weighted, plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logit)[0] for loss in (weighted, plain)))


def test_without_weights_the_loss_is_the_plain_mean_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 999).tolist()
    logit = torch.from_numpy(rng.normal(size=999).astype(np.float32))
    batch = Batch.of(rows_of(label, None), CPU)
    assert batch.share is None
    assert torch.equal(batch_loss(logit, batch), F.binary_cross_entropy_with_logits(logit, batch.label))


@pytest.mark.parametrize("weight", [[3e38, 3e38], [1e-38, 1e-38]])
def test_sizes_of_weights_do_not_matter(weight: list[float]) -> None:
    logit, label = torch.tensor([0.3, -0.2]), [1, 0]
    expected = batch_loss(logit, Batch.of(rows_of(label, None), CPU))
    torch.testing.assert_close(batch_loss(logit, Batch.of(rows_of(label, weight), CPU)), expected)


def test_a_batch_of_no_weight_has_no_loss() -> None:
    logit = torch.tensor([0.3, -0.2], requires_grad=True)
    loss = batch_loss(logit, Batch.of(rows_of([1, 0], [0.0, 0.0]), CPU))
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, logit)[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "amtl", "backbone": "dcnv2"},
        {"method": "aml", "sparse": True},
        {"method": "amtl", "select_on": "valid", "dim_budget": 0.5},
        {"method": "autoemb", "backbone": "deepfm"},
        {"method": "mde", "backbone": "autoint"},
        {"method": "amtl_nste", "backbone": "widedeep"},
    ],
)
def test_labels_of_rows_without_weight_change_nothing(
    tmp_path: Path, tiny_train: Make, weighted_data: Data, changes: dict[str, Any]
) -> None:
    runs = []
    for name, spoil in (("a", None), ("b", 5)):
        data = weighted_data(tmp_path / f"data-{name}", spoil)
        runs.append(train(tiny_train(data=str(data), epochs=1, batch_size=128, **changes), tmp_path / name))
    first, second = ((run.path / "model.safetensors").read_bytes() for run in runs)
    assert first == second
    for key in ("auc_valid", "auc_test", "logloss_test", "gauc_valid", "gauc_test", "gauc_groups_test"):
        assert runs[0].metrics[key] == runs[1].metrics[key]
    drop = ("seconds", "examples_per_second")
    histories = [[{k: v for k, v in r.items() if k not in drop} for r in run.history()] for run in runs]
    assert histories[0] == histories[1]
    assert "gauc_valid" in histories[0][0]


def test_metrics_say_that_they_are_weighted(weighted_run: Run, run: Run) -> None:
    test = weighted_run.rows("test")
    logits = predict(weighted_run.model, test)[:, 0]
    metrics = weighted_run.metrics
    assert metrics["weighted"] is True
    assert metrics["auc_test"] == pytest.approx(auc(logits, test.label, test.weight), abs=1e-12)
    assert metrics["logloss_test"] == pytest.approx(logloss(logits, test.label, test.weight), abs=1e-12)
    assert metrics["auc_test"] != pytest.approx(auc(logits, test.label), abs=1e-6)
    assert test.group is not None
    own = gauc(logits, test.label, test.group, test.weight)
    assert (metrics["gauc_test"], metrics["gauc_groups_test"]) == (pytest.approx(own.value, abs=1e-12), own.groups)
    assert run.metrics["weighted"] is False
    json.dumps(metrics, allow_nan=False)


def test_data_without_groups_has_no_gauc(tmp_path: Path, tiny_train: Make, weighted_data: Data) -> None:
    data = weighted_data(tmp_path / "data")
    schema = data / "schema.toml"
    schema.write_text(schema.read_text().replace('group = "user"\nweight = "w"\n', ""))
    plain = train(tiny_train(data=str(data), epochs=1), tmp_path / "run")
    assert not [key for key in (*plain.metrics, *plain.history()[0]) if key.startswith("gauc")]
    assert plain.metrics["weighted"] is False


def test_equal_weights_train_as_none(tmp_path: Path, tiny_train: Make, weighted_data: Data) -> None:
    """Up to roundings; and metrics agree with those that have no weights."""
    data = weighted_data(tmp_path / "data")
    (data / "schema.toml").write_text((data / "schema.toml").read_text().replace('weight = "w"\n', ""))
    half = weighted_data(tmp_path / "half")
    pl.read_csv(half / "rows.csv").with_columns(w=pl.lit(0.5)).write_csv(half / "rows.csv")
    plain, equal = (
        train(tiny_train(data=str(own), epochs=1, method="fbe", batch_size=128), tmp_path / own.name / "run")
        for own in (data, half)
    )
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(equal.model.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)
    test = plain.rows("test")
    logits = predict(plain.model, test)
    ones = replace(test, weight=np.full(len(test), 0.5, dtype=np.float32))
    for key, value in measured(logits, test, "test").items():
        assert measured(logits, ones, "test")[key] == pytest.approx(value, abs=1e-12)


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_batch_that_is_too_large_for_the_data_is_noted(tmp_path: Path, tiny_train: Make) -> None:
    observer = Notes()
    data = "synthetic:rows=900,values=20"
    found = train(tiny_train(data=data, epochs=1, batch_size=512), tmp_path / "run", observer=observer)
    count = found.metrics["rows"]["train"]
    (note,) = found.metrics["notes"]
    assert note.startswith(f"{count} training rows are 2 steps an epoch at batch_size=512")
    assert note.endswith(f"batch_size=32 makes {-(-count // 32)}")
    assert [line for line in observer.said if line.startswith("note: ")] == [f"note: {note}"]


@pytest.mark.parametrize(("rows", "batch", "said"), [(3, 2048, True), (2, 1, False), (4097, 2048, False), (1, 8, True)])
def test_notes_are_for_two_steps_and_fewer(rows: int, batch: int, said: bool) -> None:
    found = notes(TrainConfig(data="x", batch_size=batch), rows_of([0] * rows, None), {})
    assert bool(found) == said


@pytest.mark.parametrize(
    ("stats", "says"),
    [
        (NumericStats(0.1, 1.0, 0.1, 0.1), "numeric field x is constant"),
        (
            NumericStats(1.0, 2.0, -3.0, 1e6),
            "numeric field x has numbers 500,000 deviations from the mean; all beyond 100",
        ),
        (NumericStats(1.0, 2.0, -1e6, 3.0), "numeric field x has numbers 500,000 deviations"),
        (NumericStats(1.0, 2.0, -9.0, 200.0), ""),
    ],
)
def test_numbers_that_say_little_are_noted(stats: NumericStats, says: str) -> None:
    found = notes(TrainConfig(data="x", batch_size=1), rows_of([0], None), {"x": stats})
    assert [line[: len(says)] for line in found] == [says] * bool(says)


def test_a_constant_and_a_number_far_out_train_and_serve(tmp_path: Path) -> None:
    """Neither divides by nothing nor drowns the others; 1e38 is what float32 just holds."""
    folder = tmp_path / "data"
    folder.mkdir()
    field = '[[field]]\nname = "{}"\nkind = "{}"\n'
    schema = "".join(field.format(*own) for own in (("u", "categorical"), ("c", "numeric"), ("far", "numeric")))
    (folder / "schema.toml").write_text(f'label = "y"\n{schema}')
    lines = (f"u{i % 5},0.1,{1e38 if i == 3 else i % 9},{i % 7 % 2}" for i in range(900))
    (folder / "a.csv").write_text("\n".join(["u,c,far,y", *lines]) + "\n")
    run = train(TrainConfig(data=str(folder), dim=4, epochs=1, hidden=(8,), batch_size=32), tmp_path / "run")
    assert run.model.numeric is not None
    numbers = torch.tensor([[0.1, 3.0], [0.11, 1e38], [float("nan"), float("inf")]])
    assert run.model.numeric(numbers).abs().max() <= 100
    assert run.model.numeric(numbers)[0].abs().max() < 1
    assert any("c is constant" in note for note in run.metrics["notes"])
    assert 0 < run.metrics["logloss_test"] < 2
