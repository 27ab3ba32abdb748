"""TorchRec, and the DLRM that came before it: bags of ids as a KeyedJaggedTensor, or with offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from entry import Inputs, Model, zipf
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection

SIZES = {"user": 4000, "item": 6000, "words": 2000}
KEYS, D, DENSE, WORDS = list(SIZES), 16, 5, 4
BAGS = (DENSE, [32, D], [32, 1])


def bags(pooling: Any = PoolingType.SUM) -> Any:
    return EmbeddingBagCollection(
        tables=[EmbeddingBagConfig(name=f"t_{k}", embedding_dim=D, num_embeddings=n, feature_names=[k], pooling=pooling)
                for k, n in SIZES.items()]
    )  # fmt: skip


class Packed(nn.Module):
    """The KeyedJaggedTensor is made in the forward: one user, one item, four words an example."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, dense: Tensor, user: Tensor, item: Tensor, words: Tensor) -> Any:
        """`[batch, 1]`."""
        lengths = torch.cat([torch.ones_like(user), torch.ones_like(item), torch.full_like(user, WORDS)])
        values = torch.cat([user, item, words.flatten()])
        return self.model(dense, KeyedJaggedTensor(keys=KEYS, values=values, lengths=lengths))


class Sequences(nn.Module):
    """An EmbeddingCollection: one row an id, nothing pooled."""

    def __init__(self) -> None:
        super().__init__()
        tables = [EmbeddingConfig(name=f"t_{k}", embedding_dim=D, num_embeddings=SIZES[k], feature_names=[k])
                  for k in KEYS[:2]]  # fmt: skip
        self.ec, self.out = EmbeddingCollection(tables=tables), nn.Linear(2 * D, 1)

    def forward(self, user: Tensor, item: Tensor) -> Any:
        """`[batch]`."""
        lengths = torch.ones(2 * user.shape[0], dtype=torch.long)
        found = self.ec(KeyedJaggedTensor(keys=KEYS[:2], values=torch.cat([user, item]), lengths=lengths))
        return self.out(torch.cat([found[key].values() for key in KEYS[:2]], 1)).squeeze(-1)


class PlainDLRM(nn.Module):
    """The DLRM of Naumov et al. (2019): an MLP of the dense features, an EmbeddingBag a field, all pairs' products."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(size, D, mode="sum") for size in SIZES.values())
        self.bot_l = nn.Sequential(nn.Linear(DENSE, 32), nn.ReLU(), nn.Linear(32, D), nn.ReLU())
        pairs = (len(SIZES) + 1) * len(SIZES) // 2
        self.top_l = nn.Sequential(nn.Linear(D + pairs, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(len(SIZES) + 1, len(SIZES) + 1, -1))

    def forward(self, dense_x: Tensor, lS_o: Any, lS_i: list[Tensor]) -> Any:
        """`[batch, 1]` of dense features, each field's bag starts `[fields, batch]` and each field's ids."""
        x = self.bot_l(dense_x)
        ly = [bag(ids, lS_o[field]) for field, (bag, ids) in enumerate(zip(self.emb_l, lS_i, strict=True))]
        return self.interact(x, ly)

    def interact(self, x: Tensor, ly: list[Tensor]) -> Any:
        """`[batch, 1]` of the dense part and the bags, each `[batch, D]`."""
        stacked = torch.stack([x, *ly], 1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        rows, columns = self.pairs  # type: ignore[misc]
        return self.top_l(torch.cat([x, products[:, rows, columns]], 1))


class PaddedDLRM(PlainDLRM):
    """The same with bags of equal size, one matrix of ids a field."""

    def forward(self, dense_x: Tensor, user: Tensor, item: Tensor, words: Tensor) -> Any:  # type: ignore[override]
        """`[batch, 1]`."""
        return self.interact(self.bot_l(dense_x), [b(i) for b, i in zip(self.emb_l, (user, item, words), strict=True)])


def packed(rows: int) -> Inputs:
    ids = {key: zipf(SIZES[key], rows) for key in KEYS[:2]}
    return {"dense": torch.rand(rows, DENSE), **ids, "words": zipf(SIZES["words"], rows, WORDS)}


def two(rows: int) -> Inputs:
    return {key: zipf(SIZES[key], rows) for key in KEYS[:2]}


def padded(rows: int) -> Inputs:
    return {"dense_x": torch.rand(rows, DENSE), **{key: zipf(size, rows, WORDS) for key, size in SIZES.items()}}


def sizes(rows: int) -> Tensor:
    """Bags' sizes `[fields, rows]`, some of them empty."""
    return torch.randint(0, WORDS, (len(KEYS), rows))


def with_offsets(rows: int) -> Inputs:
    lengths = sizes(rows)
    starts = lengths.cumsum(1) - lengths
    ids = [zipf(size, int(lengths[field].sum())) for field, size in enumerate(SIZES.values())]
    return {"dense_x": torch.rand(rows, DENSE), "lS_o": starts, "lS_i": ids}


def jagged(rows: int) -> Inputs:
    lengths = sizes(rows)
    values = torch.cat([zipf(size, int(lengths[field].sum())) for field, size in enumerate(SIZES.values())])
    features = KeyedJaggedTensor(keys=KEYS, values=values, lengths=lengths.flatten())
    return {"dense_features": torch.rand(rows, DENSE), "sparse_features": features}


def of(name: str, build: Callable[[], nn.Module], batch: Callable[[int], Inputs], **more: Any) -> Model:
    return Model("torchrec", name, build, batch, **more)


ANY = torch.export.Dim.DYNAMIC
OFFSETS = {"dense_x": {0: ANY}, "lS_o": {1: ANY}, "lS_i": [{0: ANY}] * len(KEYS)}
MODELS = [
    of("EmbeddingCollection", Sequences, two),
    of("DLRM", lambda: Packed(DLRM(bags(), *BAGS)), packed),
    of("DLRM, mean", lambda: Packed(DLRM(bags(PoolingType.MEAN), *BAGS)), packed),
    of("DLRM_DCN", lambda: Packed(DLRM_DCN(bags(), *BAGS, 2, 8)), packed),
    of("DLRM_Projection", lambda: Packed(DLRM_Projection(bags(), *BAGS, [2 * D], [2 * D])), packed),
    of("SimpleDeepFMNN", lambda: Packed(SimpleDeepFMNN(DENSE, bags(), 32, 8)), packed),
    of("DLRM, a KeyedJaggedTensor as input", lambda: DLRM(bags(), *BAGS), jagged),
    of("plain DLRM, equal bags", lambda: PaddedDLRM(), padded),
    of("plain DLRM, offsets", lambda: PlainDLRM(), with_offsets, dynamic_shapes=OFFSETS),
]
