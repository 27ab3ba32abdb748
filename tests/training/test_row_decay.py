import torch
from torch import nn
from torch.optim import Adam, SparseAdam

from amtl_export.training.row_decay import RowDecayAdam, coalesced


def tables(count: int) -> list[nn.Embedding]:
    torch.manual_seed(0)
    first = nn.Embedding(50, 4, sparse=True)
    return [
        first,
        *(nn.Embedding.from_pretrained(first.weight.detach().clone(), False, sparse=True) for _ in range(count)),
    ]


def step(table: nn.Embedding, optimizer: torch.optim.Optimizer, ids: torch.Tensor, decay: float = 0.0) -> None:
    optimizer.zero_grad()
    rows = table(ids)
    distinct = table(ids.unique())
    (rows.sin().sum() + decay / 2 * distinct.square().sum()).backward()
    optimizer.step()


def test_decay_is_l2_of_the_rows_that_a_batch_reads() -> None:
    one, other, *_ = tables(1)
    decayed, written = RowDecayAdam(one.parameters(), 0.1, 0.5), SparseAdam(list(other.parameters()), lr=0.1)
    for seed in range(5):
        ids = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(seed))
        step(one, decayed, ids)
        step(other, written, ids, decay=0.5)
    torch.testing.assert_close(one.weight, other.weight)
    plain, *_ = tables(0)
    assert not torch.allclose(one.weight[:20], plain.weight[:20])
    assert torch.equal(one.weight[20:], plain.weight[20:]), "a row that no batch read is as it was"


def test_it_is_adam_where_every_row_is_read() -> None:
    one, other, *_ = tables(1)
    dense = Adam(other.parameters(), lr=0.1, weight_decay=0.3)
    sparse = RowDecayAdam(one.parameters(), 0.1, 0.3)
    other.sparse = False
    every = torch.arange(50)
    for _ in range(4):
        step(one, sparse, every)
        step(other, dense, every)
    torch.testing.assert_close(one.weight, other.weight)


def test_no_decay_is_sparse_adam() -> None:
    one, other, *_ = tables(1)
    plain = SparseAdam(list(other.parameters()), lr=0.1)
    ours = RowDecayAdam(one.parameters(), 0.1, 0.0)
    ids = torch.tensor([3, 3, 7])
    step(one, ours, ids)
    step(other, plain, ids)
    assert torch.equal(one.weight, other.weight)


def test_a_gradient_in_order_is_not_sorted_again() -> None:
    for ids in ([1, 4, 7], [4, 1, 7], [1, 1, 7], []):
        values = torch.randn(len(ids), 3)
        made = torch.sparse_coo_tensor(torch.tensor([ids], dtype=torch.int64), values, (9, 3), check_invariants=True)
        found = coalesced(made)
        assert found.is_coalesced()
        assert torch.equal(found.to_dense(), made.to_dense())
        assert (found._values().data_ptr() == made._values().data_ptr()) == (ids in ([1, 4, 7], []))
