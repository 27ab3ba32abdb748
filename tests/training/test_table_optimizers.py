import pytest
import torch
from torch import nn
from torch.optim import Adam, SparseAdam

from amtl_export.training.table_optimizers import RowDecayAdam, RowwiseAdagrad, coalesced


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


def adagrad(rows: torch.Tensor, sums: list[float], gradient: torch.Tensor, read: set[int], decay: float) -> None:
    """A step of row-wise Adagrad, written out, of the rows that are read."""
    for row in read:
        g = gradient[row] + decay * rows[row]
        sums[row] += float((g * g).mean())
        rows[row] -= 0.1 * g / (sums[row] ** 0.5 + 1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("sparse", [False, True])
def test_rowwise_adagrad_is_the_loop(sparse: bool, decay: float) -> None:
    (table,) = tables(0)
    table.sparse = sparse
    rows, sums = table.weight.detach().double(), [0.0] * 50
    optimizer = RowwiseAdagrad(table.parameters(), 0.1, decay)
    for seed in range(5):
        ids = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(seed))
        step(table, optimizer, ids)
        gradient = torch.zeros(50, 4, dtype=torch.float64).index_add_(0, ids, rows[ids].cos())
        adagrad(rows, sums, gradient, set(ids.tolist()) if sparse else set(range(50)), decay)
    torch.testing.assert_close(table.weight.double(), rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(optimizer.state[table.weight]["sum"], torch.tensor(sums))


def test_rowwise_adagrad_leaves_rows_that_no_batch_read() -> None:
    (table,) = tables(0)
    before = table.weight.detach().clone()
    step(table, RowwiseAdagrad(table.parameters(), 0.1, 0.5), torch.tensor([3, 3, 7]))
    changed = (table.weight != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [3, 7]


def test_rowwise_adagrad_is_fbgemms() -> None:
    module = pytest.importorskip("fbgemm_gpu.split_table_batched_embeddings_ops_training")
    kinds = pytest.importorskip("fbgemm_gpu.split_embedding_configs")
    (table,) = tables(0)
    theirs = module.SplitTableBatchedEmbeddingBagsCodegen(
        [(50, 4, module.EmbeddingLocation.HOST, module.ComputeDevice.CPU)],
        optimizer=kinds.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        eps=1e-8,
        pooling_mode=module.PoolingMode.NONE,
    )
    theirs.split_embedding_weights()[0].copy_(table.weight.detach())
    optimizer = RowwiseAdagrad(table.parameters(), 0.1)
    for seed in range(3):
        ids = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(seed))
        step(table, optimizer, ids)
        theirs(ids, torch.arange(41)).sin().sum().backward()
    torch.testing.assert_close(theirs.split_embedding_weights()[0], table.weight.detach())
