"""The form of the results and the fairness of the timing; never how fast anything is."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from amtl_export.bench.infer import InferConfig, bench_infer
from amtl_export.bench.subjects import TorchSubject, dense_torch
from amtl_export.bench.timing import Latency, interleave
from amtl_export.bench.traffic import Traffic
from amtl_export.bench.train import bench_train
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.errors import InputError
from amtl_export.freezing.flat import Flat
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.training.config import TrainConfig
from amtl_export.training.run import Run


def test_inference_results_keep_the_contract(paged_bundle: Bundle, run: Run) -> None:
    config = InferConfig(batches=(1, 8), seconds=0.01)
    result = bench_infer(paged_bundle.path, run.path, config)
    assert {"machine", "threads", "provider", "cases", "date"} <= set(result)
    times = {"p50_us", "p95_us", "p99_us", "mean_us", "runs", "qps"}
    keys = {"batch", "dim", "threads", "ids", "subject", "bytes"} | times
    assert all(keys <= set(case) for case in result["cases"])
    seen = Counter((case["subject"], case["ids"], case["batch"]) for case in result["cases"])
    subjects = {"torch-eager", "torch-masked", "onnx-dense", "onnx-paged"}
    assert set(seen) == {(s, ids, b) for s in subjects for ids in ("zipf", "uniform", "replay") for b in (1, 8)}
    assert all(case["p50_us"] <= case["p95_us"] <= case["p99_us"] for case in result["cases"])
    json.dumps(result, allow_nan=False)


def test_a_dense_bundle_is_its_own_baseline(tmp_path: Any, frozen: FrozenModel, run: Run) -> None:
    bundle = export(frozen, tmp_path / "b", ExportConfig(layout="dense"))
    result = bench_infer(bundle.path, run.path, InferConfig(batches=(1,), distributions=("replay",), seconds=0.01))
    assert [c["subject"] for c in result["cases"]] == ["torch-eager", "torch-masked", "onnx-dense"]


def test_a_bundle_of_another_run_is_refused(paged_bundle: Bundle, fbe_run: Run, run: Run, tmp_path: Any) -> None:
    assert fbe_run.vocabulary_hash == run.vocabulary_hash
    from amtl_export.training.loop import train

    other = train(TrainConfig(data="synthetic:rows=3000,values=50,seed=4", dim=12, epochs=1), tmp_path / "o")
    with pytest.raises(InputError, match="not of this run"):
        bench_infer(paged_bundle.path, other.path)


class Recorder:
    """A subject that writes down what it is asked."""

    bytes = 0

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        self.name, self.log = name, log

    def prepare(self, feed: dict[str, Any]) -> int:
        return int(feed["ids"])

    def run(self, prepared: int) -> None:
        self.log.append((self.name, prepared))


def test_subjects_take_turns_on_the_same_inputs() -> None:
    log: list[tuple[str, int]] = []
    subjects = [Recorder(name, log) for name in "abc"]
    feeds = [{"ids": np.array(i)} for i in range(4)]
    times = interleave(subjects, feeds, seconds=1e-9, min_rounds=12)
    assert {name: len(t) for name, t in times.items()} == {"a": 12, "b": 12, "c": 12}
    timed = log[-2 * 36 :][1::2]  # after the warm-up every timed run follows an untimed one
    rounds = [timed[i : i + 3] for i in range(0, 36, 3)]
    assert [{feed for _, feed in r} for r in rounds] == [{i % 4} for i in range(12)]
    assert all(sorted(name for name, _ in r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(name for name, _ in r) for r in rounds}) > 2


def test_percentiles_and_rate() -> None:
    latency = Latency.of([1_000 * n for n in range(1, 101)], batch=10)
    assert latency.p50_us == pytest.approx(50.5)
    assert latency.p99_us == pytest.approx(99.01)
    assert latency.qps == pytest.approx(10 / 50.5e-6)


def test_dense_torch_answers_like_the_frozen_model(frozen: FrozenModel, run: Run) -> None:
    feed = Traffic.of(frozen).feeds(64, "zipf", 0)[0]
    answers = []
    for model in (dense_torch(frozen), Flat(run.model, frozen.module.call)):
        subject = TorchSubject("x", model, frozen.inputs)
        answers.append(subject.run(subject.prepare(feed)))
    torch.testing.assert_close(answers[0], answers[1])


def test_rotating_inputs_outgrow_the_caches_and_replay_real_rows(frozen: FrozenModel, run: Run) -> None:
    traffic = Traffic.of(frozen)
    feeds = traffic.feeds(4096, "uniform", 0)
    assert len(feeds) * feeds[0]["ids"].size * 4 * 12 > 64 << 20
    replayed = traffic.feeds(16, "replay", 0)
    assert np.array_equal(replayed[1]["ids"], np.asarray(run.rows("test").ids[16:32]))


@pytest.mark.parametrize(
    "changes", [{"batches": ()}, {"batches": (0,)}, {"threads": 0}, {"distributions": ("normal",)}]
)
def test_config_refuses_bad_values(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bench"):
        InferConfig(**changes)


def test_training_methods_take_turns(tiny_train: Callable[..., TrainConfig]) -> None:
    notes: list[str] = []
    result = bench_train(tiny_train(), ["fbe", "amtl"], epochs=2, note=notes.append)
    assert [case["method"] for case in result["cases"]] == ["fbe", "amtl"]
    for measure in ("epoch", "inference_torch", "inference_onnx"):
        assert result["cases"][0][f"{measure}_ratio"] == 1.0
        assert all(len(case[f"{measure}_seconds"]) == 2 for case in result["cases"])
    assert len(notes) == 2
    with pytest.raises(InputError):
        bench_train(tiny_train(), [], epochs=1)
