"""AMTL behind the embeddings of a model that knows nothing of this project."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export import ExportConfig, attach, export, freeze, validate
from amtl_export.bundle.export import write_model
from amtl_export.errors import InputError
from amtl_export.files import write_sums
from amtl_export.models.attach import AttachedTable, is_attached
from amtl_export.models.config import SelectionConfig


def exported(model: nn.Module, example: Any, out: Path, outputs: Any = None, **config: Any) -> Path:
    return export(freeze(model, example=example, outputs=outputs), out, ExportConfig(**config)).path


def problems(bundle: Path, model: nn.Module, feed: Any) -> list[str]:
    return validate(bundle, model, feed).problems


class TwoTower(nn.Module):
    """Somebody's model: two towers, a shared genre table, a bag of words, a float feature."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.ModuleDict({"emb": nn.Embedding(50, 8)})
        self.item_emb = nn.Embedding(30, 8)
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.mix = nn.Linear(8 + 8 + 6 + 1, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor, words: Tensor, price: Tensor) -> Tensor:
        bag = self.words(words).sum(dim=1)
        x = torch.cat([self.user["emb"](user), self.item_emb(item), bag, price], dim=1)
        logit: Tensor = self.out(torch.relu(self.mix(x))).squeeze(-1)
        return logit


def inputs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def ids(high: int, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) ** 2 * high).long()

    price = torch.rand(batch, 1, generator=generator)
    return {"user": ids(50, batch), "item": ids(30, batch), "words": ids(20, batch, 3), "price": price}


def counts(name: str, size: int) -> Tensor:
    return torch.bincount(inputs(2000)[name].flatten(), minlength=size)


NAMES = ("user", "item", "words", "price")


def train(
    model: nn.Module,
    steps: int,
    names: tuple[str, ...] = NAMES,
    loss: Any = F.binary_cross_entropy_with_logits,
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    for step in range(steps):
        batch = inputs(64, seed=step)
        label = ((batch["user"] + batch["item"]) % 3 == 0).float()
        optimizer.zero_grad()
        loss(model(*(batch[name] for name in names)), label).backward()
        optimizer.step()
    model.eval()


def table(model: nn.Module, name: str) -> AttachedTable:
    module = model.get_submodule(name)
    assert isinstance(module, AttachedTable)
    return module


@pytest.fixture
def attached() -> nn.Module:
    """Trained, attached, fine-tuned."""
    torch.manual_seed(0)
    model = TwoTower()
    train(model, 30)
    fields = {"user.emb": counts("user", 50), "item_emb": counts("item", 30), "words": counts("words", 20)}
    attach(model, fields, SelectionConfig(initial_ratio=0.5))
    train(model, 20)
    return model


@pytest.mark.parametrize("layout", ["auto", "dense", "paged", "blocks", "ragged"])
def test_frozen_exported_validated(tmp_path: Path, attached: nn.Module, layout: Any) -> None:
    frozen = freeze(attached, example=inputs(16), outputs=["logit"])
    batch = inputs(200, seed=9)
    torch.testing.assert_close(frozen.module.model(*batch.values()), attached(*batch.values()))
    assert not [name for name in frozen.module.state_dict() if "selector" in name]
    assert not [part for part in frozen.module.modules() if is_attached(part)]
    for field, size in (("user.emb", 50), ("item_emb", 30), ("words", 20)):
        assert torch.equal(frozen.tables[field].dims, table(attached, field).frozen_dims())
        assert frozen.counts[field].tolist() == counts(field.split(".")[0].removesuffix("_emb"), size).tolist()
    bundle = export(frozen, tmp_path / "b", ExportConfig(layout=layout)).path
    assert problems(bundle, attached, batch) == []
    names = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert {"model.onnx", "model.onnx.data", "signature.json", "SHA256SUMS"} <= names


class Everywhere(nn.Module):
    """An item table that two embeddings share, an output layer, and a product; a bag with a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.seen, self.bag = nn.Embedding(60, 8), nn.Embedding(60, 8), nn.EmbeddingBag(20, 8)
        self.out = nn.Linear(8, 60)
        self.seen.weight = self.item.weight
        self.out.weight = self.item.weight
        self.bag.register_forward_hook(lambda _, __, rows: rows * 2)

    def forward(self, item: Tensor, tags: Tensor) -> Any:
        hidden = self.item(input=item) + self.bag(tags) + self.seen(item)
        return self.out(hidden) + hidden @ self.item.weight.T


def test_tied_tables_and_bags_are_exported_as_they_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Everywhere()
    fields = {"item": torch.arange(60, 0, -1), "bag": torch.arange(20, 0, -1)}
    attach(model, fields, SelectionConfig(initial_ratio=0.5)).eval()
    feed = {"item": torch.randint(0, 60, (32,)), "tags": torch.randint(0, 20, (32, 3))}
    frozen = freeze(model, example=feed)
    assert set(frozen.tables) == {"item", "bag"}
    assert not [part for part in frozen.module.modules() if "_selectors" in vars(part)]
    assert problems(export(frozen, tmp_path / "b").path, model, feed) == []


def spoil(bundle: Path, name: str) -> None:
    model = ir.load(bundle / "model.onnx")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        if value.name == name:
            array.flat[array.size - 1] += np.float32(1)
        value.const_value = ir.tensor(array, name=value.name)
    (bundle / "model.onnx.data").unlink()
    write_model(model, bundle)
    write_sums(bundle)


def test_wrong_rows_weights_and_files_fail(tmp_path: Path, attached: nn.Module) -> None:
    good = exported(attached, inputs(16), tmp_path / "b", layout="dense")
    rows = Path(shutil.copytree(good, tmp_path / "rows"))
    spoil(rows, "table/item_emb/rows")
    assert any("field item_emb, id 29, dim 7" in p for p in problems(rows, attached, inputs(8)))
    weights = Path(shutil.copytree(good, tmp_path / "weights"))
    spoil(weights, "model.out.bias")
    assert any("answers differently" in p for p in problems(weights, attached, inputs(8)))
    with (good / "model.onnx.data").open("ab") as data:
        data.write(b"x")
    assert problems(good, attached, inputs(8)) == [
        "files differ from SHA256SUMS: model.onnx.data",
        "not the graph that export writes: model.onnx.data, byte 3776: of no initializer",
    ]


def test_other_peoples_mistakes_are_named(tmp_path: Path, attached: nn.Module) -> None:
    with pytest.raises(InputError, match="the model fails on its example"):
        exported(attached, inputs(4) | {"price": torch.rand(3, 1)}, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


class RechubDeepFm(nn.Module):
    """torch-rechub's DeepFM, which takes a dictionary, behind positional inputs."""

    def __init__(self) -> None:
        super().__init__()
        from torch_rechub.basic.features import SparseFeature
        from torch_rechub.models.ranking import DeepFM

        sizes = {"user": 50, "item": 30}
        features = [SparseFeature(name, vocab_size=size, embed_dim=8) for name, size in sizes.items()]
        self.names = list(sizes)
        self.deepfm = DeepFM(features, features, mlp_params={"dims": [16, 8], "dropout": 0.0, "activation": "relu"})

    def forward(self, *ids: Tensor) -> Tensor:
        probability: Tensor = self.deepfm(dict(zip(self.names, ids, strict=True)))
        return probability


@pytest.mark.filterwarnings("default")  # the package's own warnings are not ours to fix
def test_a_third_partys_deepfm(tmp_path: Path) -> None:
    """Trained a little, attached, fine-tuned, exported, validated; nothing of it subclassed or changed."""
    pytest.importorskip("torch_rechub", reason="needs the extra thirdparty")
    torch.manual_seed(0)
    model = RechubDeepFm()

    own = ("user", "item")
    train(model, 30, own, F.binary_cross_entropy)
    root = "deepfm.embedding.embed_dict"
    fields = {f"{root}.user": counts("user", 50), f"{root}.item": counts("item", 30)}
    attach(model, fields, SelectionConfig(initial_ratio=0.5))
    train(model, 20, own, F.binary_cross_entropy)

    def feed(batch: int, seed: int) -> dict[str, Tensor]:
        return {name: inputs(batch, seed)[name] for name in own}

    for layout in ("dense", "paged"):
        bundle = exported(model, feed(16, 0), tmp_path / layout, outputs=["probability"], layout=layout)
        assert problems(bundle, model, feed(300, 7)) == []
    graph = ir.load(tmp_path / "paged" / "model.onnx").graph
    gathers = [node for node in graph if node.op_type == "Gather"]
    assert len(gathers) == 4  # each table is looked up once, though the model asks twice
