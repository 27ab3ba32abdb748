"""Batches to time with: replayed, or drawn anew where ids can be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bench.infer import InferConfig, bench_infer, traffic_of
from amtl_export.bench.traffic import DISTRIBUTIONS, Traffic
from amtl_export.bundle.export import export
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.source.source import Source
from amtl_export.spec import mismatch
from amtl_export.training.run import Run

V, D = 50, 4


class Shop(nn.Module):
    """Ids looked up as they are, ids looked up modulo, padded lists, and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.shop = nn.Embedding(V, D), nn.Embedding(7, D)
        self.tags = nn.Embedding(V, D, padding_idx=0)

    def forward(self, item: Tensor, shop: Tensor, tags: Tensor, age: Tensor) -> Any:
        rows = self.item(item) + self.shop(shop % 7) + self.tags(tags).sum(1)
        return rows.sum(-1) * age


def batch(rows: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    ids = {
        "item": torch.randint(0, V, (rows,), generator=random),
        "shop": torch.randint(0, 99, (rows,), generator=random),
    }
    tags = torch.randint(1, V, (rows, 3), generator=random)
    tags[:, 2] = 0
    return ids | {"tags": tags, "age": torch.rand(rows, generator=random)}


@pytest.fixture
def module() -> Shop:
    torch.manual_seed(0)
    return Shop().eval()


@pytest.fixture
def shop(module: Shop) -> FrozenModel:
    batches = [(batch(10, seed), torch.arange(10) % 2) for seed in range(3)]
    return freeze(Source(module, batch(6, 9), batches=batches, counts={"item": torch.arange(V, 0, -1) ** 3}))


def test_a_users_labelled_examples_are_replayed_in_order(shop: FrozenModel) -> None:
    traffic = Traffic.of(shop)
    first, second = traffic.feeds(16, "replay", 0)[:2]
    items = np.concatenate([batch(10, seed)["item"].numpy() for seed in range(3)])
    assert first["item"].tolist() == items[:16].tolist()
    assert second["item"].tolist() == [*items[16:], *items[:2]]
    assert traffic.resampled == ["item", "shop", "tags", "age"]


def test_ids_of_a_bundles_own_lookups_are_drawn(shop: FrozenModel, module: Shop, tmp_path: Path) -> None:
    bundle = export(shop, tmp_path / "bundle")
    traffic = traffic_of(bundle, shop)
    assert traffic.resampled == ["shop", "age"]
    for distribution in DISTRIBUTIONS:
        feeds = traffic.feeds(1000, distribution, 0)
        assert len(feeds) >= 8
        for feed in feeds[:3]:
            assert mismatch(feed, shop.inputs) == ""
            assert (feed["tags"][:, 2] == 0).all()  # padding stays
            assert feed["item"].min() >= 0
            assert feed["item"].max() < V
    often = {d: np.mean(traffic.feeds(1000, d, 0)[0]["item"] < 10) for d in ("uniform", "zipf")}
    assert often["uniform"] < 0.3 < 0.5 < often["zipf"]
    again, other = traffic.feeds(20, "zipf", 0)[0], traffic.feeds(20, "zipf", 1)[0]
    assert np.array_equal(again["item"], traffic.feeds(20, "zipf", 0)[0]["item"])
    assert not np.array_equal(again["item"], other["item"])
    result = bench_infer(bundle.path, shop, InferConfig(batches=(1, 4), seconds=0.01))
    assert result["resampled_inputs"] == ["shop", "age"]
    assert {case["subject"] for case in result["cases"]} == {"torch-eager", "torch-masked", "onnx-dense"}


def test_without_labels_the_example_is_replayed(module: Shop) -> None:
    frozen = freeze(module, example=batch(6, 9))
    feeds = Traffic.of(frozen).feeds(4, "replay", 0)
    items = batch(6, 9)["item"].tolist()
    assert feeds[0]["item"].tolist() == items[:4]
    assert feeds[1]["item"].tolist() == [*items[4:], *items[:2]]


def test_lists_of_different_lengths_are_filled_up(run: Run, frozen: FrozenModel) -> None:
    traffic = Traffic.of(frozen)
    assert traffic.resampled == []
    rows = run.rows("test")
    (feed,) = (traffic._take(np.arange(len(rows))),)
    assert np.array_equal(feed["ids"], rows.ids)
    padding = frozen.vocabularies["tags"].padding
    tags = rows.multi["tags"]
    assert np.array_equal(feed["tags"][:, : tags.shape[1]], tags)
    assert (feed["tags"][:, tags.shape[1] :] == padding).all()
    parts = {tuple(sorted(f)): None for f in traffic.feeds(64, "zipf", 0)[:2]}
    assert list(parts) == [("ids", "numeric", "tags")]


def test_lists_joined_of_several_batches() -> None:
    class Tags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tags = nn.Embedding(V, D, padding_idx=0)

        def forward(self, tags: Tensor) -> Any:
            return self.tags(tags).sum((1, 2))

    shapes = {"tags": {0: "batch", 1: "length"}}
    ones = [(torch.ones(3, length, dtype=torch.int64), torch.zeros(3)) for length in (2, 4)]
    frozen = freeze(
        Source(
            Tags(),
            torch.ones(3, 4, dtype=torch.int64),
            dynamic_shapes=shapes,
            batches=ones,
        )
    )
    assert Traffic.of(frozen).pool["tags"].tolist() == [[1, 1, 0, 0]] * 3 + [[1, 1, 1, 1]] * 3


def test_examples_that_cannot_be_put_together() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(V, D, mode="sum")

        def forward(self, ids: Tensor, offsets: Tensor) -> Any:
            return self.bag(ids, offsets).sum(-1)

    example: Any = {"ids": torch.arange(9), "offsets": torch.tensor([0, 2, 5])}
    shapes = {"ids": {0: "values"}, "offsets": {0: "batch"}}
    traffic = Traffic.of(freeze(Bags(), example=example, dynamic_shapes=shapes))
    assert traffic.feeds(3, "replay", 0)[0]["ids"].tolist() == list(range(9))
    with pytest.raises(InputError, match=r"(?s)cannot be put together.*ids.*batch 4.*3"):
        traffic.feeds(4, "replay", 0)
