"""Bundles of users' modules: sound ones pass, each way of being wrong fails with its reason."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export, write_model
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import write_sums
from amtl_export.freezing.frozen import freeze
from amtl_export.metrics import auc
from amtl_export.source.source import Source
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Verdict

V, D = 40, 8


class Clicks(nn.Module):
    """Two tables, numbers, a batch norm: what the exporter folds weights of."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.tags = nn.Embedding(V, D), nn.EmbeddingBag(V, D, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(2 * D + 1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, item: Tensor, tags: Tensor, age: Tensor) -> dict[str, Tensor]:
        x = torch.cat([self.item(item), self.tags(tags), age.unsqueeze(1)], dim=1)
        logit = self.layers(x).squeeze(1)
        return {"logit": logit, "probability": torch.sigmoid(logit)}


def rows(count: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    item, tags = (torch.randint(0, V, shape, generator=random) for shape in ((count,), (count, 3)))
    return {"item": item, "tags": tags, "age": torch.rand(count, generator=random)}


@pytest.fixture
def model() -> Clicks:
    torch.manual_seed(0)
    made = Clicks()
    made(**rows(64))  # statistics of the batch norm
    return made.eval()


def exported(module: nn.Module, folder: Path, config: ExportConfig | None = None, example: Any = None) -> Bundle:
    return export(freeze(module, example=rows(8) if example is None else example), folder / "bundle", config)


def failed(bundle: Bundle, source: Any, inputs: Any = None) -> Verdict:
    verdict = validate(bundle.path, source, inputs)
    assert verdict.verdict == "fail"
    return verdict


def rewrite(bundle: Bundle, change: Callable[[ir.Model], None]) -> None:
    """Change a graph and make its checksums right again."""
    model = ir.load(bundle.model)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    change(model)
    (bundle.path / "model.onnx.data").unlink()
    write_model(model, bundle.path)
    write_sums(bundle.path)


@pytest.mark.parametrize(
    "config",
    [
        ExportConfig("dense"),
        ExportConfig("paged", page_width=3),
        ExportConfig("blocks"),
        ExportConfig("ragged"),
        ExportConfig("dense", "fp16"),
        ExportConfig("ragged", "int8"),
        ExportConfig("ragged", "int4"),
        ExportConfig("dense", "int4"),
        ExportConfig("paged", id_policy="trust"),
        ExportConfig("dense", request_fields=("tags",)),
    ],
    ids=lambda c: f"{c.layout}-{c.dtype}-{c.id_policy}-{len(c.request_fields)}",
)
def test_a_sound_bundle_passes(model: Clicks, tmp_path: Path, config: ExportConfig) -> None:
    bundle = exported(model, tmp_path, config)
    verdict = validate(bundle.path, model, rows(50, seed=1))
    assert verdict.problems == []
    assert verdict.rows_checked == verdict.rows_bit_equal == 2 * V
    assert verdict.examples_independent
    if config.id_policy == "guard":
        assert verdict.out_of_range == {"item": "guarded", "tags": "guarded"}
        assert verdict.hostile_ids_checked
    assert (verdict.auc_torch, verdict.rows_scored) == (None, None)
    values = verdict.to_json()
    json.dumps(values, allow_nan=False)
    assert (values["verdict"], values["selector_nodes"]) == ("pass", 0)
    assert validate(bundle.path, model).problems == []  # with the bundle's own samples
    assert validate(bundle.path, freeze(model, example=rows(9))).problems == []


def test_a_changed_weight(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("layers.3.bias").add_(0.01)
    problems = failed(bundle, other).problems
    assert problems[0].startswith("not the graph that export writes: initializer model.layers.3.bias, at [0]: found ")
    assert any("the graph answers differently from PyTorch" in p and "differs by 0.01" in p for p in problems)


def test_a_changed_row(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path, ExportConfig("dense"))
    with torch.no_grad():
        model.item.weight[7, 2] += 1e-6
    verdict = failed(bundle, model)
    assert verdict.rows_bit_equal == 2 * V - 1
    assert any(p.startswith("wrong row (optimised): field item, id 7, dim 2") for p in verdict.problems)


def test_a_row_changed_in_the_file(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path, ExportConfig("dense"))

    def change(graph: ir.Model) -> None:
        value = graph.graph.initializers["table/tags/rows"]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[11, 0] = np.nextafter(array[11, 0], np.float32(9))
        value.const_value = ir.tensor(array, name=value.name)

    rewrite(bundle, change)
    verdict = failed(bundle, model)
    assert verdict.rows_bit_equal == 2 * V - 1
    assert any("field tags, id 11, dim 0" in p for p in verdict.problems)


def test_a_guard_that_is_wrong(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path, ExportConfig("dense"))

    def widen(graph: ir.Model) -> None:
        (name,) = [name for name in graph.graph.initializers if name.startswith("ids/item") and name.endswith("last")]
        graph.graph.initializers[name].const_value = ir.tensor(np.array(V), name=name)

    rewrite(bundle, widen)
    assert any("an id" in p or "field item, id 40" in p for p in failed(bundle, model).problems)


def test_a_file_changed_after_export(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)
    with (bundle.path / "README.md").open("a") as readme:
        readme.write("\n")
    sums, line = failed(bundle, model).problems
    assert sums == "files differ from SHA256SUMS: README.md"
    assert line.startswith("not what export writes: README.md, line ")


def test_what_the_source_does_besides_is_found(model: Clicks, tmp_path: Path) -> None:
    """A hook that the exported model had not."""
    bundle = exported(model, tmp_path)
    handle = model.layers.register_forward_hook(lambda _m, _i, out: out + 0.5)
    verdict = failed(bundle, model)
    assert any("not the graph that export writes: graph, node" in p and "is missing" in p for p in verdict.problems)
    assert verdict.max_abs_logit_diff is None
    handle.remove()
    assert validate(bundle.path, model).problems == []


def test_another_model(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)

    class Other(Clicks):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(V, 2 * D)
            self.layers[0] = nn.Linear(3 * D + 1, 8)

    assert any("another model" in p or "D=" in p for p in failed(bundle, Other().eval()).problems)


def test_labelled_batches_give_an_auc(model: Clicks, tmp_path: Path) -> None:
    batches = [(rows(20, seed), (torch.arange(20) % 3 == 0).float()) for seed in range(4)]
    source = Source(model, rows(8), batches={"test": batches, "valid": batches[:1]}, score="probability")
    bundle = export(freeze(source), tmp_path / "bundle")
    verdict = validate(bundle.path, source)
    assert verdict.problems == []
    with torch.no_grad():
        scores = np.concatenate([model(**inputs)["probability"].numpy() for inputs, _ in batches])
    labels = np.concatenate([own.numpy() for _, own in batches])
    assert verdict.auc_torch == pytest.approx(auc(scores, labels), abs=1e-9)
    assert verdict.abs_delta_auc is not None
    assert verdict.abs_delta_auc <= 1e-6
    assert (verdict.rows_scored, verdict.rank_flips) == (80, 0)
    assert verdict.max_abs_logit_diff is not None
    assert validate(bundle.path, source, split="valid").rows_scored == 20
    short = Source(model, rows(8), batches=[(rows(5), torch.ones(4))])
    assert any("labels do not fit" in p for p in validate(bundle.path, short).problems)


def test_labels_of_one_kind_have_no_auc(model: Clicks, tmp_path: Path) -> None:
    source = Source(model, rows(8), batches=[(rows(20), torch.ones(20))])
    verdict = validate(export(freeze(source), tmp_path / "bundle").path, source)
    assert verdict.problems == []
    assert verdict.to_json()["auc_torch"] is None
    assert verdict.rows_scored == 20


class Table(nn.Module):
    """One table, and what a test makes of its ids and rows."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.out = nn.Embedding(V, D), nn.Linear(D, 1)
        self.before, self.after = before, after

    def forward(self, ids: Tensor) -> Tensor:
        return self.after(self.out(self.items(self.before(ids))))


def test_examples_that_are_not_independent_are_said(tmp_path: Path) -> None:
    module = Table(after=lambda y: y - y.mean(0)).eval()
    bundle = exported(module, tmp_path, example=torch.arange(6))
    assert not bundle.signature.batches.independent
    assert "a server must not batch" in (bundle.path / "README.md").read_text()
    verdict = validate(bundle.path, module)
    assert verdict.problems == []
    assert verdict.examples_independent is False


def test_a_batch_of_none_that_ends_the_process_is_said(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.gru = nn.Embedding(V, D), nn.GRU(D, 4, batch_first=True)

        def forward(self, ids: Tensor) -> Any:
            return self.gru(self.items(ids))[0][:, -1]

    module = Recurrent().eval()
    bundle = exported(module, tmp_path, example=torch.arange(12).reshape(4, 3))
    assert bundle.signature.batches.none == "ONNX Runtime: ends the process (exit code -6)"
    assert bundle.signature.batches.single == "answered"
    assert "A request of no example: ONNX Runtime: ends the process" in (bundle.path / "README.md").read_text()
    verdict = validate(bundle.path, module)
    assert verdict.problems == []
    assert verdict.batch_of_none == "ONNX Runtime: ends the process (exit code -6)"


def test_no_candidate_is_tried_beside_a_request_too(tmp_path: Path) -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(V, D), nn.Embedding(V, D)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            if item.shape[0] == 0:
                raise ValueError("no candidate")
            return (self.users(user) * self.items(item)).sum(1)

    module, example = Pairs().eval(), {"user": torch.full((6,), 3), "item": torch.arange(6)}
    bundle = export(
        freeze(module, example=example), tmp_path / "bundle", ExportConfig("dense", request_fields=("user",))
    )
    assert bundle.signature.batches.none == "refused by PyTorch: ValueError: no candidate"
    assert validate(bundle.path, module).batch_of_none == "refused by PyTorch: ValueError: no candidate"


def test_a_batch_of_one_that_pytorch_refuses_is_said(tmp_path: Path) -> None:
    def two_at_least(y: Tensor) -> Tensor:
        if y.shape[0] == 1:
            raise ValueError("one example is too few")
        return y

    module = Table(after=two_at_least).eval()
    bundle = exported(module, tmp_path, example=torch.arange(6))
    assert bundle.signature.batches.single == "refused by PyTorch: ValueError: one example is too few"
    assert validate(bundle.path, module).problems == []


def test_numbers_that_onnx_runtime_rounds_are_refused(tmp_path: Path) -> None:
    """Summed as floats: ids past 2^53 are not what PyTorch makes of them."""
    module = Table(before=lambda ids: torch.stack([ids, torch.ones_like(ids), -ids], 1).sum(1) % V).eval()
    with pytest.raises(ValidationFailed, match=r"(?s)answers differently.*ids=\d+") as refused:
        exported(module, tmp_path, example=torch.arange(6))
    assert "differs by" in str(refused.value) or "ONNX Runtime" in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", [lambda ids: ids % V, lambda ids: ids.clamp(0, V - 1), lambda ids: ids // 1])
def test_ids_that_are_computed(tmp_path: Path, before: Callable[[Tensor], Tensor]) -> None:
    module = Table(before).eval()
    bundle = exported(module, tmp_path, example=torch.arange(6))
    assert validate(bundle.path, module).problems == []


def test_inputs_that_do_not_fit_get_a_sentence(model: Clicks, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)
    wide = rows(6) | {"tags": torch.zeros(6, 5, dtype=torch.int64)}
    (problem,) = failed(bundle, model, wide).problems
    assert "the inputs are not those that the bundle takes" in problem
    assert "input tags has the shape [6, 5], the graph takes [6, 3]" in problem
    frozen = freeze(model, example=rows(8))
    with_less = {name: values for name, values in rows(6).items() if name != "age"}
    for source in (model, frozen):
        try:
            problems = validate(bundle.path, source, with_less).problems
        except InputError as error:
            problems = [str(error)]
        assert any("age" in p for p in problems)


def test_a_nested_example(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(V, D)

        def forward(self, features: dict[str, Any], *, scale: Tensor | None = None) -> Any:
            first, second = features["history"]
            return (self.items(first) * self.items(second)).sum(-1) + features["age"]

    module = Nested().eval()
    example = {"features": {"history": [torch.arange(6), torch.arange(6) + 1], "age": torch.rand(6)}}
    bundle = exported(module, tmp_path, example=example)
    assert [spec.name for spec in bundle.inputs] == ["history_0", "history_1", "age"]
    again = {"features": {"history": [torch.arange(9), torch.arange(9) + 3], "age": torch.rand(9)}}
    flat = {"history_0": np.arange(4), "history_1": np.arange(4), "age": np.zeros(4, np.float32)}
    for inputs in (None, again, flat):
        assert validate(bundle.path, module, inputs).problems == []


class Pair(NamedTuple):
    """Inputs in a class of one's own."""

    item: Tensor
    other: Tensor


def test_inputs_of_a_class_must_be_given(tmp_path: Path) -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(V, D)

        def forward(self, pair: Pair) -> Any:
            return (self.items(pair.item) * self.items(pair.other)).sum(-1)

    module, pair = Pairs().eval(), Pair(torch.arange(6), torch.arange(6) + 1)
    bundle = exported(module, tmp_path, example=(pair,))
    assert validate(bundle.path, module, (pair,)).problems == []
    with pytest.raises(InputError, match=r"(?s)by their names.*Pairs.*no attribute.*give `inputs`"):
        validate(bundle.path, module)
