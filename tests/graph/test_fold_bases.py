"""Where the basis of a compressed table goes: for each way to read rows, folded away or kept, and always answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import InputError
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.facts import WEIGHT, fact
from amtl_export.graph.passes import fold_bases as fold_bases_module
from amtl_export.graph.passes.base import is_custom
from amtl_export.graph.pipeline import fold_bases
from amtl_export.graph.trace import trace
from amtl_export.graph.weights import PAIRS, Part
from amtl_export.runtime.predictor import load
from amtl_export.source.source import Source
from amtl_export.spec import Feed
from amtl_export.validation.provenance import load_graph
from amtl_export.validation.validate import validate

V, D, L = 30, 8, 4
B = 6

Read = Callable[[Any, Mapping[str, Tensor]], Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def feed(rows: int = B, seed: int = 0) -> dict[str, Tensor]:
    """Ids of two fields and of two sequences, and what masks and weighs them."""
    drawn = torch.Generator().manual_seed(seed)
    ids = {"a": (rows,), "b": (rows,), "s": (rows, L), "t": (rows, L)}
    made = {name: torch.randint(0, V, shape, generator=drawn) for name, shape in ids.items()}
    made["mask"] = torch.rand(rows, L, generator=drawn) > 0.4
    made["w"] = torch.rand(rows, L, generator=drawn)
    return made


class Reads(nn.Module):
    """Two tables, a few layers, and an output for each way to read the rows."""

    def __init__(self, reads: Mapping[str, Read]) -> None:
        super().__init__()
        self.one, self.two = nn.Embedding(V, D), nn.Embedding(V, D)
        self.sums, self.means = nn.EmbeddingBag(V, D, mode="sum"), nn.EmbeddingBag(V, D, mode="mean", padding_idx=3)
        self.layer, self.pair, self.wide = nn.Linear(D, 5), nn.Linear(2 * D, 5), nn.Linear(L * D, 5, bias=False)
        self.matrix, self.vector = nn.Parameter(torch.randn(2 * D, 3)), nn.Parameter(torch.randn(D))
        self.kernel = nn.Parameter(torch.randn(3, 2, D))
        self.norm, self.bilinear = nn.LayerNorm(D), nn.Bilinear(D, D, 3)
        self.conv = nn.Conv1d(D, 3, 2)
        self.gru = nn.GRU(D, 4, batch_first=True)
        self.reads = reads

    def forward(self, a: Tensor, b: Tensor, s: Tensor, t: Tensor, mask: Tensor, w: Tensor) -> dict[str, Tensor]:
        given = {"a": a, "b": b, "s": s, "t": t, "mask": mask, "w": w}
        return {name: read(self, given) for name, read in self.reads.items()}


def side(m: Any, x: Mapping[str, Tensor]) -> Tensor:
    """Rows of the two fields, `[B, 2, D]`."""
    return torch.stack([m.one(x["a"]), m.one(x["b"])], dim=1)


def attended(m: Any, x: Mapping[str, Tensor]) -> Tensor:
    """Rows of a sequence, added up by weights, `[B, D]`."""
    weights = torch.softmax(x["w"].masked_fill(~x["mask"], -1e9), dim=1)
    rows: Tensor = (weights.unsqueeze(1) @ m.one(x["s"])).squeeze(1)
    return rows


#: Read by a linear layer in the end: nothing is left of the basis.
FOLDED: dict[str, Read] = {
    "linear": lambda m, x: m.layer(m.one(x["a"])),
    "other_table": lambda m, x: m.layer(m.two(x["a"])),  # one layer, two tables: a weight for each
    "other_field": lambda m, x: m.layer(m.one(x["b"])),  # a shared tower
    "side_by_side": lambda m, x: m.pair(torch.cat([m.one(x["a"]), m.two(x["b"])], dim=1)),
    "other_order": lambda m, x: m.pair(torch.cat([m.two(x["a"]), m.one(x["b"])], dim=1)),
    "same_twice": lambda m, x: m.pair(torch.cat([m.one(x["a"])] * 2, dim=1)),
    "with_numbers": lambda m, x: F.linear(torch.cat([x["w"], m.one(x["a"]), x["w"]], dim=1), m.matrix.T),
    "by_hand": lambda m, x: torch.cat([m.one(x["a"]), m.one(x["b"])], dim=1) @ m.matrix,
    "plus_bias": lambda m, x: torch.cat([m.one(x["a"]), m.one(x["b"])], dim=1) @ m.matrix + m.vector[:3],
    "flat_sequence": lambda m, x: m.wide(m.one(x["s"]).flatten(1)),
    "summed": lambda m, x: m.layer(m.one(x["s"]).sum(1)),
    "mean": lambda m, x: m.layer(m.one(x["s"]).mean(dim=-2)),
    "mean_kept": lambda m, x: m.layer(m.one(x["s"]).mean(dim=1, keepdim=True).squeeze(1)),
    "float_mask": lambda m, x: m.layer((m.one(x["s"]) * x["w"].unsqueeze(-1)).sum(1)),
    "masked_fill": lambda m, x: m.layer(m.one(x["s"]).masked_fill(~x["mask"].unsqueeze(-1), 0.0).sum(1)),
    "where": lambda m, x: m.layer(torch.where(x["mask"].unsqueeze(-1), m.one(x["s"]), torch.zeros(())).sum(1)),
    "masked_mean": lambda m, x: m.layer(
        (m.one(x["s"]) * x["mask"].unsqueeze(-1)).sum(1) / x["mask"].sum(1, keepdim=True).clamp(min=1)
    ),
    "attention": lambda m, x: m.layer(attended(m, x)),
    "scaled": lambda m, x: m.layer(m.one(x["a"]) * 3 / 7),
    "scaled_each": lambda m, x: m.layer(x["w"][:, :1] * m.one(x["a"])),
    "stack": lambda m, x: m.pair(side(m, x).flatten(1)),
    "stack_sum": lambda m, x: m.layer(side(m, x).sum(1)),
    "cat_fields": lambda m, x: m.pair(
        torch.cat([m.one(x["a"].unsqueeze(1)), m.one(x["b"].unsqueeze(1))], dim=1).view(-1, 2 * D)
    ),
    "cat_tables": lambda m, x: m.pair(
        torch.cat([m.one(x["a"]).unsqueeze(1), m.two(x["b"]).unsqueeze(1)], dim=1).flatten(1)
    ),
    "unbind": lambda m, x: m.pair(torch.cat(m.one(x["s"]).unbind(1)[1:3], dim=1)),
    "chunk": lambda m, x: m.pair(torch.cat([part.sum(1) for part in m.one(x["s"]).chunk(2, dim=1)], dim=1)),
    "split": lambda m, x: m.layer(m.one(x["s"]).split([1, 3], dim=1)[1].mean(1)),
    "narrow": lambda m, x: m.pair(m.one(x["s"]).narrow(1, 1, 2).flatten(1)),
    "index_select": lambda m, x: m.pair(m.one(x["s"]).index_select(1, torch.tensor([3, 0])).flatten(1)),
    "select": lambda m, x: m.layer(m.one(x["s"])[:, -1]),
    "bags": lambda m, x: m.layer(m.sums(x["s"])),
    "bags_weighed": lambda m, x: m.layer(m.sums(x["s"], per_sample_weights=x["w"])),
    "bags_mean": lambda m, x: m.layer(m.means(x["s"])),
    # Nothing weighs the numbers here, so that the bases are orthonormal: products of rows are those of coordinates.
    "dot": lambda m, x: (m.one(x["a"]) * m.one(x["b"])).sum(1),
    "norms": lambda m, x: m.one(x["s"]).square().sum(-1),
}

#: Read by what feels the basis: rows are decoded there.
KEPT: dict[str, Read] = {
    "einsum": lambda m, x: torch.einsum("bd,od->bo", m.one(x["a"]), m.layer.weight),
    "rows": lambda m, x: m.one(x["a"]),
    "relu": lambda m, x: m.layer(torch.relu(m.one(x["a"]))),
    "layer_norm": lambda m, x: m.layer(m.norm(m.one(x["a"]))),
    "largest": lambda m, x: m.layer(m.one(x["s"]).amax(1)),
    "products": lambda m, x: m.layer(m.one(x["a"]) * m.two(x["b"])),
    "other_bases": lambda m, x: (m.one(x["a"]) * m.two(x["b"])).sum(1),
    "dots": lambda m, x: m.one(x["s"]) @ m.two(x["t"]).transpose(1, 2),
    "weighed_numbers": lambda m, x: m.layer(m.one(x["a"]) * m.vector),
    "shifted": lambda m, x: m.layer(m.one(x["a"]) + 1),
    "where_other": lambda m, x: m.layer(torch.where(x["mask"][:, :1], m.one(x["a"]), m.vector)),
    "some_numbers": lambda m, x: m.one(x["a"])[:, 2:5],
    "cross": lambda m, x: m.one(x["a"]) * (m.one(x["a"]) @ m.vector).unsqueeze(1),
    "bilinear": lambda m, x: m.bilinear(m.one(x["a"]), m.two(x["b"])),
    "conv": lambda m, x: m.conv(m.one(x["s"]).transpose(1, 2)),
    "transposed": lambda m, x: m.one(x["s"]).transpose(1, 2).flatten(1) @ m.wide.weight.T,
    "mean_of_numbers": lambda m, x: m.one(x["s"]).mean(-1),
    "turned": lambda m, x: m.one(x["s"]).reshape(-1, 2 * L, D // 2).sum(1),
    "repeated": lambda m, x: m.layer(m.one(x["a"]).repeat(2, 1)[: len(x["a"])]),
    "per_field": lambda m, x: torch.einsum("bkd,okd->bo", side(m, x), m.kernel),
    "permuted": lambda m, x: m.one(x["s"]).permute(1, 0, 2).sum(0),
}


def compressed(module: nn.Module, example: Any, budget: float = 0.6, **more: Any) -> FrozenModel:
    """The module compressed without requests."""
    return compress(freeze(module.eval(), example=example, **more), dim_budget=budget)


def close(found: Feed, expected: Feed, atol: float = 1e-5) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        scale = max(1.0, float(np.abs(values).max(initial=0.0)))
        np.testing.assert_allclose(found[name], values, atol=atol * scale, rtol=0, err_msg=name)


def decoded(model: FrozenModel) -> set[str]:
    """Outputs that some decoded row goes into."""
    graph = trace(model)
    fold_bases(graph)
    return {str(value.name) for value in graph.graph.outputs if _reads_decoded(value)}


def _reads_decoded(value: ir.Value) -> bool:
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        if is_custom(node, "Decode"):
            return True
        fresh = [own for own in node.inputs if own is not None and own not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def proven(model: FrozenModel, folder: Path, config: ExportConfig | None = None, example: Any = feed) -> Bundle:
    """Exported and valid; alike for any number of rows where values are exact."""
    bundle = export(model, folder, config)
    verdict = validate(bundle.path, model)
    assert (verdict.problems, verdict.batch_of_none) == ([], "answered")
    assert verdict.rows_bit_equal == verdict.rows_checked
    if config is None or (config.dtype != "int8" and config.layer_dtype != "int8"):
        for rows in (0, 1, 2, 50):
            given = {name: values.numpy() for name, values in example(rows, seed=rows).items()}
            close(load(bundle.path).predict(given), model.answers(given))
    return bundle


LAYOUTS = {
    "portable": ExportConfig(target="portable"),
    "fused": ExportConfig("ragged", first_layer="fused"),
    "int8_rows": ExportConfig("paged", "int8", page_width=2),
}


@pytest.fixture(scope="module")
def folded() -> FrozenModel:
    torch.manual_seed(0)
    return compressed(Reads(FOLDED), feed())


@pytest.fixture(scope="module")
def kept() -> FrozenModel:
    torch.manual_seed(0)
    return compressed(Reads(KEPT), feed())


def test_linear_readers_take_the_basis_over(folded: FrozenModel) -> None:
    assert decoded(folded) == set()


def test_other_readers_read_decoded_rows(kept: FrozenModel) -> None:
    assert decoded(kept) == set(KEPT)


@pytest.mark.parametrize("layout", ["fused", "int8_rows"])
def test_folded_bases_in_each_layout(folded: FrozenModel, tmp_path: Path, layout: str) -> None:
    bundle = proven(folded, tmp_path / "bundle", LAYOUTS[layout])
    assert bases_of(bundle) == []


@pytest.mark.parametrize("layout", ["portable"])
def test_kept_bases_in_each_layout(kept: FrozenModel, tmp_path: Path, layout: str) -> None:
    bundle = proven(kept, tmp_path / "bundle", LAYOUTS[layout])
    assert bases_of(bundle) == ["one.frozen_table.bases", "two.frozen_table.bases"]


def bases_of(bundle: Bundle) -> list[str]:
    """Bases that a graph holds."""
    weights = {fact(value, WEIGHT) or "" for value in load_graph(bundle.model).graph.initializers.values()}
    return sorted(name for name in weights if name.endswith(".bases"))


def pair(rows: int = B, seed: int = 0) -> dict[str, Tensor]:
    given = feed(rows, seed)
    return {"a": given["a"], "b": given["b"]}


class Tower(nn.Module):
    """A layer that reads two tables, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(V, D), nn.Embedding(V, D)
        self.tower, self.out = nn.Linear(D, 6), nn.Linear(6, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        score: Tensor = self.out(torch.relu(self.tower(self.user(a))) * self.tower(self.item(b))).squeeze(1)
        return score


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_one_tower_of_two_tables(tmp_path: Path, dtype: Any) -> None:
    model = compressed(Tower(), pair(), 1.0)  # as wide as each other: their weights must not be taken for each other's
    assert decoded(model) == set()
    proven(model, tmp_path / "bundle", ExportConfig("ragged", dtype, first_layer="fused"), pair)
    with pytest.raises(InputError, match="no layer gains"):  # no single weight in int8 would stand for both
        export(model, tmp_path / "int8", ExportConfig("ragged", "int8", layer_dtype="int8"))


def test_a_quantized_layer_reads_coordinates(tmp_path: Path) -> None:
    module = Reads({"wide": lambda m, x: m.pair(torch.cat([m.one(x["a"]), m.two(x["b"])], dim=1))})
    model = compressed(module, feed())
    config = ExportConfig("ragged", "int8", first_layer="fused", layer_dtype="int8")
    bundle = proven(model, tmp_path / "bundle", config)
    assert "RaggedLinearInt8" in [node.op_type for node in bundle.proto().graph.node]


class Factors(nn.Module):
    """FM over three tables of unlike sizes, in one of the ways that people write it, and a linear part."""

    def __init__(self, kept: bool = False, last: bool = False) -> None:
        super().__init__()
        self.user, self.item, self.place = nn.Embedding(V, D), nn.Embedding(V, D), nn.Embedding(7, D)
        self.out = nn.Linear(3 * D, 1)
        self.kept, self.last = kept, last
        with torch.no_grad():
            self.item.weight[:, 3:] = 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        rows = torch.stack([self.user(a), self.item(b), self.place(a % 7)], dim=1)
        score: Tensor = self.pairs(rows) + self.out(rows.flatten(1)).squeeze(1)
        return score

    def pairs(self, rows: Tensor) -> Tensor:
        total, squares = rows.sum(1, keepdim=self.kept), (rows * rows).sum(1, keepdim=self.kept)
        return 0.5 * (total**2 - squares).sum(-1, keepdim=self.last).flatten()


class Dots(Factors):
    """The same, pair by pair."""

    def pairs(self, rows: Tensor) -> Tensor:
        return sum((rows[:, i] * rows[:, j]).sum(1) for i, j in ((0, 1), (0, 2), (1, 2)))  # type: ignore[return-value]


def labelled(batches: int = 3) -> list[tuple[dict[str, Tensor], Tensor]]:
    return [(pair(40, seed), torch.arange(40) % 2) for seed in range(batches)]


def test_products_of_tables_in_one_basis(tmp_path: Path) -> None:
    model = compress(Source(Dots().eval(), pair(), batches=labelled()), max_auc_drop=0.04)
    assert model.compressed is not None
    report = model.compressed.report
    assert {own["kind"] for own in report["placements"]} == {"projection", "shared"}
    assert set(report["basis"].values()) == {"shared"}
    assert decoded(model) == set()
    assert bases_of(proven(model, tmp_path / "bundle", None, pair)) == []


@pytest.mark.parametrize(("kept", "last"), [(False, False), (False, True), (True, False), (True, True)])
def test_pairs_of_rows_in_several_bases(tmp_path: Path, kept: bool, last: bool) -> None:
    model = compress(Source(Factors(kept, last).eval(), pair(), batches=labelled()), max_auc_drop=0.04)
    assert model.compressed is not None
    report = model.compressed.report
    assert set(report["basis"].values()) == {"folded"}
    assert [own["projection_multiply_adds"] for own in report["placements"]] == [0]
    graph = load_graph(proven(model, tmp_path / "bundle", None, pair).model).graph
    (pairs,) = [own for own in map(Part.described, graph.initializers.values()) if own and own.form == PAIRS]
    assert not {"Sub", "Pow"} & {node.op_type for node in graph}
    assert len(pairs.columns) == sum(table.rows.shape[1] for table in model.tables.values())


def test_pairs_of_many_long_rows_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compressed(Factors(), pair())
    assert decoded(model) == set()
    monkeypatch.setattr(fold_bases_module, "_DECODED", -D)
    assert len(decoded(model)) == 1


def test_a_changed_form_of_pairs_is_seen(tmp_path: Path) -> None:
    model = compressed(Factors(), pair())
    bundle = export(model, tmp_path / "bundle")
    graph = ir.load(bundle.model)
    (value,) = [
        own for own in graph.graph.initializers.values() if (part := Part.described(own)) and part.form == PAIRS
    ]
    assert value.const_value is not None
    changed = value.const_value.numpy().copy()
    changed[0, -1] *= 1.01
    value.const_value = ir.tensor(changed, name=value.name)
    ir.save(graph, bundle.model, external_data="model.onnx.data")
    assert any("pairs/" in problem for problem in validate(bundle.path, model).problems)


@pytest.mark.parametrize(("layout", "field"), [("dense", "a"), ("ragged", "b")])
def test_fields_of_the_request(tmp_path: Path, layout: Any, field: str) -> None:
    class Crossed(Tower):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            user, item = self.user(a), self.item(b)
            score: Tensor = super().forward(a, b) + (user * item).sum(1) + (torch.relu(user) * item).sum(1)
            return score

    model = compressed(Crossed(), pair())
    bundle = export(model, tmp_path / "bundle", ExportConfig(layout, request_fields=(field,)))
    assert validate(bundle.path, model).problems == []


class Columns(nn.Module):
    """Somebody's own method: a table of several fields, which looks up columns of any number of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(30, D))
        self.sizes, self.offsets = (20, 10), (0, 20)

    def lookup(self, ids: Tensor, fields: Any) -> Tensor:
        return self.weight[ids + torch.tensor([self.offsets[f] for f in fields])]

    def frozen_rows(self) -> Tensor:
        return self.weight.detach()

    def frozen_dims(self) -> Tensor:
        return torch.full((30,), D)


COLUMNS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "flat": lambda m, rows: m.flat(rows.flatten(1)),
    "mean": lambda m, rows: m.pair(rows.mean(1).flatten(1)),
    "one_column": lambda m, rows: m.one(rows[:, :, 1].sum(1)),
    "turned_round": lambda m, rows: m.pair(rows.flip(2).sum(1).flatten(1)),
    "parts": lambda m, rows: m.pair(torch.cat([part.sum(1).squeeze(1) for part in rows.chunk(2, 2)], 1)),
    "chosen": lambda m, rows: m.pair(rows.index_select(2, torch.tensor([1, 0])).sum(1).flatten(1)),
    "together": lambda m, rows: m.flat(torch.cat([rows.sum(1), rows[:, 0], rows[:, 2]], 1).flatten(1)),
    "halves": lambda m, rows: m.one(rows.reshape(-1, 6, D).sum(1)),
    "raw": lambda _, rows: rows.relu(),
    "cut": lambda _, rows: rows[:, 1:, 1:].relu(),
}


def test_columns_of_several_fields(tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.flat = Columns(), nn.Linear(6 * D, 3)
            self.pair, self.one = nn.Linear(2 * D, 3), nn.Linear(D, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            rows = self.table.lookup(x, (0, 1))  # [B, 3, 2, D]
            return {name: read(self, rows) for name, read in COLUMNS.items()}

    def example(rows: int = B, seed: int = 0) -> dict[str, Tensor]:
        return {"x": torch.randint(0, 10, (rows, 3, 2), generator=torch.Generator().manual_seed(seed))}

    model = compressed(Mine(), example())
    assert decoded(model) == {"raw", "cut", "halves"}
    proven(model, tmp_path / "bundle", None, example)


def test_zeros_that_are_larger_than_the_rows(tmp_path: Path) -> None:
    module = Reads(
        {
            "larger": lambda m, x: m.layer(
                torch.where(x["mask"][:, :1, None], m.one(x["a"][:, None]), torch.zeros(3, D)).sum(1)
            ),
            "larger_mask": lambda m, x: m.layer(torch.where(x["mask"][:, :, None], m.one(x["a"][:, None]), 0.0).sum(1)),
            "larger_scale": lambda m, x: m.layer((x["w"][:, :, None] * m.one(x["a"][:, None])).sum(1)),
        }
    )
    proven(compressed(module, feed()), tmp_path / "bundle")


def test_a_gru_reads_decoded_rows(tmp_path: Path) -> None:
    model = compressed(Reads({"gru": lambda m, x: m.gru(m.one(x["s"]))[1].squeeze(0)}), feed())
    assert decoded(model) == {"gru"}
    bundle = export(model, tmp_path / "bundle")
    assert validate(bundle.path, model).problems == []


def test_flat_bags_by_their_offsets(tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sums, self.means = nn.EmbeddingBag(V, D, mode="sum"), nn.EmbeddingBag(V, D, mode="mean")
            self.out = nn.Linear(D, 1)

        def forward(self, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
            score: Tensor = self.out(self.sums(ids, offsets, weights) + self.means(ids, offsets)).squeeze(1)
            return score

    example = {"ids": feed(12)["a"], "offsets": torch.tensor([0, 0, 3, 7]), "weights": torch.rand(12)}
    shapes = {"ids": {0: "values"}, "weights": {0: "values"}, "offsets": {0: "bags"}}
    model = compressed(Bags(), example, dynamic_shapes=shapes)
    bundle = export(model, tmp_path / "bundle", ExportConfig("ragged"))
    assert validate(bundle.path, model).problems == []


def test_tables_that_stay_as_they_are(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tied, self.item, self.wide = nn.Embedding(V, D), nn.Embedding(V, D), nn.Embedding(V, 2 * D)
            self.narrow, self.unread, self.out = nn.Embedding(V, 2), nn.Embedding(V, D), nn.Linear(D, V)
            self.last = nn.Linear(3 * D + 2, 1)
            self.out.weight = self.tied.weight

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            last = self.last(torch.cat([self.item(b), self.wide(a), self.narrow(b)], dim=1))
            scores: Tensor = self.out(self.tied(a)) + last
            return scores

    model = compressed(Mixed(), pair())
    assert model.compressed is not None
    report = model.compressed.report
    assert set(report["fields"]) == {"item", "wide"}
    assert [report["fields"][name]["dim"] for name in ("item", "wide")] == [D, 2 * D]
    assert "whole" in report["left"]["tied"]
    assert "does not read" in report["left"]["unread"]
    assert "numbers a row" in report["left"]["narrow"]
    bundle = proven(model, tmp_path / "bundle", None, pair)
    assert bases_of(bundle) == []
