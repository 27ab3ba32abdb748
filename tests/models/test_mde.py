"""Mixed dimensions against the rule of their paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.freezing.swap import freeze_module, frozen_tables
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.models.config import EmbeddedField, MixedConfig, ModelConfig
from amtl_export.models.ctr import CtrModel
from amtl_export.models.mde import MixedEmbedding, block_widths, frequency_blocks, popularity_order

D = 16


def build(ratio: float) -> CtrModel:
    torch.manual_seed(0)
    fields = (EmbeddedField("user", 400), EmbeddedField("kind", 5, governed=False), EmbeddedField("item", 300))
    tags = EmbeddedField("tags", 200, padding=199)
    mixed = MixedConfig(blocks=4, alpha=0.3, ratio=ratio)
    config = ModelConfig(embedded=(*fields, tags), dim=D, method="mde", hidden=(8,), mixed=mixed)
    return CtrModel(config, [(10_000 / torch.arange(1, f.size + 1)).long() for f in config.embedded]).eval()


def method_of(model: CtrModel) -> MixedEmbedding:
    assert isinstance(model.embedding, MixedEmbedding)
    return model.embedding


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=300), st.integers(1, 9))
def test_blocks_cover_every_id_once(counts: list[int], number: int) -> None:
    spans = frequency_blocks(torch.tensor(sorted(counts, reverse=True)), number)
    assert [i for start, end in spans for i in range(start, end)] == list(range(len(counts)))
    assert all(start < end for start, end in spans)
    assert len(spans) <= number


def test_blocks_share_the_occurrences() -> None:
    counts = (1_000_000 / torch.arange(1, 5001)).long()
    spans = frequency_blocks(counts, 4)
    shares = [float(counts[a:b].sum() / counts.sum()) for a, b in spans]
    assert all(0.15 < share < 0.35 for share in shares)
    sizes = [b - a for a, b in spans]
    assert sizes == sorted(sizes)


def test_widths_follow_the_power_law() -> None:
    sizes = [1000, 8000, 64000, 512000]
    assert block_widths(sizes, 64, 1 / 3, None) == [64, 32, 16, 8]
    assert block_widths(sizes, 64, 0.0, None) == [64] * 4
    assert block_widths([10, 10_000_000], 64, 1.0, None) == [64, 1]


def test_a_block_that_projecting_would_not_shrink_is_left_whole() -> None:
    sizes = [40, 4000]
    widths = block_widths(sizes, 64, 0.1, 0.75)
    assert widths[0] == 64  # 40 rows of some 50 numbers and 50·64 for a projection are more than 40·64
    assert all(d == 64 or n * d + d * 64 < n * 64 for n, d in zip(sizes, widths, strict=True))


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=12), st.floats(0.05, 1.0), st.sampled_from([0.0, 0.3, 1.0])
)
def test_a_budget_bounds_the_mean(sizes: list[int], ratio: float, alpha: float) -> None:
    def total(bound: float) -> int:
        return sum(n * d for n, d in zip(sizes, block_widths(sizes, 64, alpha, bound), strict=True))

    assert total(ratio) <= max(ratio * 64 * sum(sizes), total(1 / 64)) + 1e-6


def test_an_id_is_its_numbers_times_its_blocks_projection() -> None:
    method = method_of(build(0.4))
    table = method.rows.table.weight
    assert len({block.width for blocks in method.blocks.values() for block in blocks}) > 2
    for position, blocks in method.blocks.items():
        above = 0
        for block in blocks:
            ends = torch.tensor([block.start, block.end - 1])
            found = method.lookup(ends.unsqueeze(1), (position,))[:, 0]
            own = table[method.offsets[position] + ends, : block.width]
            if block.width < D:
                own = own @ method.projections[str(position)][above : above + block.width]
                above += block.width
            torch.testing.assert_close(found, own)
    assert not bool(method.lookup(torch.tensor([[199]]), (3,)).any())  # padding


def test_blocks_follow_counts_where_those_do_not_fall_with_the_id() -> None:
    counts = (100_000 / torch.arange(1, 301)).long()
    counts[-1] = 0  # padding
    assert torch.equal(popularity_order(counts), torch.arange(300))
    moved = torch.cat([torch.arange(2), torch.randperm(297, generator=torch.Generator().manual_seed(1)) + 2])
    moved = torch.cat([moved, torch.tensor([299])])
    config = ModelConfig(
        embedded=(EmbeddedField("item", 300), EmbeddedField("tags", 300, padding=299)),
        dim=D,
        method="mde",
        mixed=MixedConfig(ratio=0.4),
    )
    falling, shared = (MixedEmbedding(config, [each, each]) for each in (counts, counts[moved]))
    assert falling.blocks == shared.blocks
    assert not [name for name, _ in falling.named_buffers() if "places" in name]
    shared.projections.load_state_dict(falling.projections.state_dict())
    with torch.no_grad():
        for position in (0, 1):
            shared.rows.table.part(shared.rows.table.weight, position).copy_(
                falling.rows.table.part(falling.rows.table.weight, position)[moved]
            )
            assert torch.equal(
                shared.rows.table.part(shared.frozen_dims(), position),
                falling.rows.table.part(falling.frozen_dims(), position)[moved],
            )
            every = torch.arange(300).unsqueeze(1)
            assert torch.equal(shared.lookup(every, (position,)), falling.lookup(moved.unsqueeze(1), (position,)))


def test_columns_of_a_batch_are_looked_up_alike() -> None:
    model = build(0.4)
    ids = torch.stack([torch.randint(0, n, (64,)) for n in (400, 5, 300)], dim=1)
    together = model.method.lookup(ids, (0, 1, 2))
    for column in range(3):
        torch.testing.assert_close(together[:, column], model.method.lookup(ids[:, [column]], (column,))[:, 0])


@pytest.mark.parametrize("ratio", [0.1, 0.4])
def test_frozen_it_holds_rows_and_projections_and_sends_hostile_ids_to_id_0(ratio: float) -> None:
    model = build(ratio)
    frozen = freeze_module(model)
    assert isinstance(frozen, CtrModel)
    assert set(frozen_tables(frozen)) == {"embedding.rows"}
    assert isinstance(frozen.get_submodule("embedding.rows"), FrozenEmbedding)
    kept = {name for name, _ in frozen.named_parameters() if name.startswith("embedding.")}
    assert kept == {f"embedding.projections.{i}" for i in (0, 2, 3)}
    every = torch.arange(400).unsqueeze(1)
    torch.testing.assert_close(frozen.method.lookup(every, (0,)), model.method.lookup(every, (0,)))
    out_of_range = torch.tensor([[-1], [400], [2**62], [-(2**63)]])
    answer = frozen.method.lookup(out_of_range, (0,))
    assert torch.equal(answer, frozen.method.lookup(torch.zeros_like(out_of_range), (0,)))
