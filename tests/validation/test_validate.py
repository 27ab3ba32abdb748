"""Sound bundles pass; each way of being wrong fails, with its reason. Real bundles, really spoilt."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import polars as pl
import pytest

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export, write_model
from amtl_export.files import write_sums
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.trace import trace
from amtl_export.spec import rows_of
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.training.run import Run
from amtl_export.validation.rows import out_of_range_ids
from amtl_export.validation.scores import rank_flips
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances, Verdict


def test_a_sound_bundle_passes(bundle: Bundle, run: Run) -> None:
    verdict = validate(bundle.path, run.path)
    values = verdict.to_json()
    assert verdict.problems == []
    assert values["verdict"] == "pass"
    assert values["rows_checked"] == values["rows_bit_equal"] == sum(run.model.method.sizes)
    through_the_model = 2 * 6  # inputs of ids; ids in each of them
    probed = len(out_of_range_ids(5)) * len(run.model.method.sizes)
    assert values["hostile_ids_checked"] == probed + through_the_model
    assert values["out_of_range"] == {"ids": "guarded", "tags": "guarded"}
    assert (values["batch_of_none"], values["batch_of_one"]) == ("answered", "answered")
    assert values["examples_independent"]
    assert values["selector_nodes"] == values["selector_initializers"] == 0
    assert values["abs_delta_auc"] <= 1e-6
    assert values["providers"] == ["CPUExecutionProvider"]
    assert sum(values["nodes_by_provider"].values()) > 10
    assert values["auc_torch"] == pytest.approx(run.metrics["auc_test"], abs=1e-12)
    dense = bundle.signature.layout == "dense"
    assert (values["bytes_ratio"] == 1.0) == dense


def test_every_key_of_the_contract_is_there(bundle: Bundle, run: Run) -> None:
    contract = (
        "verdict auc_torch auc_onnx abs_delta_auc logloss_torch logloss_onnx max_abs_logit_diff rows_checked "
        "rows_bit_equal rank_flips selector_nodes selector_initializers bytes_dense bytes_table bytes_ratio providers "
        "nodes_by_provider hostile_ids_checked"
    )
    values = validate(bundle.path, run.path, split="valid").to_json()
    assert all(values[key] is not None for key in contract.split())
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize("layout", ["auto", "dense", "paged"])
def test_an_fbe_bundle_passes(tmp_path: Path, fbe_run: Run, layout: Any) -> None:
    bundle = export(freeze(fbe_run), tmp_path / "b", ExportConfig(layout=layout))
    assert bundle.signature.layout == ("paged" if layout == "paged" else "dense")
    assert validate(bundle.path, fbe_run.path).problems == []


def test_a_trusting_bundle_passes_without_out_of_range_ids(tmp_path: Path, frozen: FrozenModel, run: Run) -> None:
    bundle = export(frozen, tmp_path / "b", ExportConfig(layout="paged", id_policy="trust"))
    verdict = validate(bundle.path, run.path)
    assert verdict.problems == []
    assert verdict.to_json()["hostile_ids_checked"] == 0


def rewrite(folder: Path, change: Callable[[ir.Model], None]) -> None:
    """Change a bundle's graph and make its checksums right again: only the content is wrong."""
    model = ir.load(folder / "model.onnx")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    change(model)
    (folder / "model.onnx.data").unlink()
    write_model(model, folder)
    write_sums(folder)


def edit(name: str, change: Callable[[np.ndarray[Any, Any]], None]) -> Callable[[ir.Model], None]:
    def apply(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        change(array)
        value.const_value = ir.tensor(array, name=name)

    return apply


def failed(folder: Path, run: Path) -> Verdict:
    verdict = validate(folder, run)
    assert verdict.verdict == "fail"
    return verdict


def test_one_wrong_row(bundle_copy: Path, run: Run) -> None:
    def smallest_change(pages: np.ndarray[Any, Any]) -> None:
        pages[5, 0] = np.nextafter(pages[5, 0], np.float32(9))

    rewrite(bundle_copy, edit("table/embedding/pages", smallest_change))
    verdict = failed(bundle_copy, run.path)
    assert verdict.to_json()["rows_bit_equal"] == verdict.to_json()["rows_checked"] - 1
    assert any(p.startswith("wrong row (optimised): field user, id ") for p in verdict.problems)


def test_a_wrong_page(bundle_copy: Path, run: Run) -> None:
    def swap(table: np.ndarray[Any, Any]) -> None:
        table[[10, 11]] = table[[11, 10]]

    rewrite(bundle_copy, edit("table/embedding/page_table", swap))
    verdict = failed(bundle_copy, run.path)
    assert verdict.to_json()["rows_bit_equal"] == verdict.to_json()["rows_checked"] - 2


def test_a_wrong_offset(bundle_copy: Path, run: Run) -> None:
    def shift(offsets: np.ndarray[Any, Any]) -> None:
        offsets[1] += 1

    rewrite(bundle_copy, edit("ids/ids/offsets", shift))
    verdict = failed(bundle_copy, run.path)
    assert any("field item, id 0" in p for p in verdict.problems)


def test_a_wrong_guard(bundle_copy: Path, run: Run) -> None:
    def widen(sizes: np.ndarray[Any, Any]) -> None:
        sizes[0] += 1

    rewrite(bundle_copy, edit("ids/ids/sizes", widen))
    verdict = failed(bundle_copy, run.path)
    size = run.model.method.sizes[0]
    assert verdict.to_json()["rows_bit_equal"] == verdict.to_json()["rows_checked"]
    assert any(f"field user, id {size}" in p for p in verdict.problems)


def test_a_changed_backbone(bundle_copy: Path, run: Run) -> None:
    def change(bias: np.ndarray[Any, Any]) -> None:
        bias[0] += 1

    rewrite(bundle_copy, edit("model.backbone.layers.1.bias", change))
    problems = " ".join(failed(bundle_copy, run.path).problems)
    assert "backbone parameters differ from the run's: model.backbone.layers.1.bias" in problems
    assert "logit_atol=" in problems


def test_a_bundle_with_the_selector_left_in(bundle_copy: Path, run: Run) -> None:
    """The unfrozen model, traced as it is and put into an otherwise sound bundle."""
    frozen = freeze(run)
    assert frozen.trained is not None
    few = rows_of(frozen.example, frozen.inputs, slice(3))  # of more rows than ids, masks are folded to constants
    model = trace(replace(frozen, module=frozen.trained, example=few))
    model.metadata_props["amtl.vocabulary_hash"] = run.vocabulary_hash
    for file in ("model.onnx", "model.onnx.data"):
        (bundle_copy / file).unlink()
    write_model(model, bundle_copy)
    write_sums(bundle_copy)
    verdict = failed(bundle_copy, run.path)
    assert verdict.to_json()["selector_nodes"] > 10
    assert verdict.to_json()["selector_initializers"] >= 8
    assert any("nodes of the selection network are left" in p for p in verdict.problems)
    assert any("export writes none" in p for p in verdict.problems)
    assert verdict.rows_checked is None
    assert "the graph was not run: it is none that export writes" in verdict.notes


def test_a_selector_parameter_under_another_name(bundle_copy: Path, run: Run) -> None:
    weight = run.model.get_parameter("embedding.selectors.0.high.0.weight").detach().numpy()

    def smuggle(model: ir.Model) -> None:
        value = ir.Value(name="table/innocent", const_value=ir.tensor(weight, name="table/innocent"))
        value.shape, value.dtype = ir.Shape(weight.shape), ir.DataType.FLOAT
        model.graph.initializers["table/innocent"] = value

    rewrite(bundle_copy, smuggle)
    verdict = failed(bundle_copy, run.path)
    assert verdict.to_json()["selector_initializers"] == 1
    assert any("table/innocent" in p for p in verdict.problems)


def test_a_weight_that_nobody_explains(bundle_copy: Path, run: Run) -> None:
    def add(model: ir.Model) -> None:
        value = ir.Value(name="extra", const_value=ir.tensor(np.arange(99, dtype=np.float32), name="extra"))
        model.graph.initializers["extra"] = value

    rewrite(bundle_copy, add)
    assert any("neither table nor backbone explains: extra" in p for p in failed(bundle_copy, run.path).problems)


def test_another_runs_vocabulary(bundle_copy: Path, run: Run) -> None:
    file = bundle_copy / "vocab" / "user.parquet"
    frame = pl.read_parquet(file)
    values = frame["value"].to_list()
    values[2], values[3] = values[3], values[2]
    frame.with_columns(value=pl.Series(values)).write_parquet(file)
    write_sums(bundle_copy)
    problems = failed(bundle_copy, run.path).problems
    assert any("another run's vocabulary: field(s) user" in p for p in problems)


def test_another_runs_bundle(tmp_path: Path, paged_bundle: Bundle, tiny_train: Callable[..., TrainConfig]) -> None:
    other = train(tiny_train(data="synthetic:rows=4000,values=120,rank=4,tags=12,seed=9", epochs=1), tmp_path / "other")
    problems = failed(paged_bundle.path, other.path).problems
    assert any("another run's vocabulary" in p for p in problems)
    assert any("vocabulary hash" in p for p in problems)


def test_same_data_trained_anew(tmp_path: Path, paged_bundle: Bundle, tiny_train: Callable[..., TrainConfig]) -> None:
    """Vocabularies agree, weights do not."""
    other = train(tiny_train(lr=0.01), tmp_path / "other")
    verdict = failed(paged_bundle.path, other.path)
    assert verdict.to_json()["rows_bit_equal"] < verdict.to_json()["rows_checked"]
    assert any("AUC differs" in p for p in verdict.problems)


def test_another_model(tmp_path: Path, paged_bundle: Bundle, tiny_train: Callable[..., TrainConfig]) -> None:
    other = train(tiny_train(dim=8, epochs=1), tmp_path / "other")
    assert "of another model" in failed(paged_bundle.path, other.path).problems[0]


def test_a_file_changed_after_export(bundle_copy: Path, run: Run) -> None:
    with (bundle_copy / "README.md").open("a") as readme:
        readme.write("\n")
    sums, readme_ = failed(bundle_copy, run.path).problems
    assert sums == "files differ from SHA256SUMS: README.md"
    assert readme_.startswith("not what export writes: README.md, line ")


def test_wrong_dims_beside_the_vocabulary(bundle_copy: Path, run: Run) -> None:
    file = bundle_copy / "vocab" / "user.parquet"
    pl.read_parquet(file).with_columns(pl.col("dims") + 1).write_parquet(file)
    write_sums(bundle_copy)
    (problem,) = failed(bundle_copy, run.path).problems
    assert problem.startswith("not what export writes: vocab/user.parquet, column dims, id 0: found ")


def test_tolerances_are_what_decides(bundle_copy: Path, run: Run) -> None:
    verdict = validate(bundle_copy, run.path, tolerances=Tolerances(logit_atol=0.0))
    needed = verdict.to_json()["minimum_logit_atol"]
    if needed == 0:
        pytest.skip("this machine's ONNX Runtime rounds exactly as PyTorch does")
    assert verdict.verdict == "fail"
    assert validate(bundle_copy, run.path, tolerances=Tolerances(logit_atol=needed)).verdict == "pass"


def test_a_run_is_compared_on_the_inputs_given(paged_bundle: Bundle, run: Run, frozen: FrozenModel) -> None:
    rows = rows_of(frozen.example, frozen.inputs, slice(3))
    assert validate(paged_bundle.path, run, rows).problems == []
    (problem,) = validate(paged_bundle.path, run, {"ids": rows["ids"]}).problems
    assert "inputs of another structure" in problem
    (problem,) = validate(paged_bundle.path, run, rows | {"ids": rows["ids"][:, 1:]}).problems
    assert "input ids has the shape" in problem
    (problem,) = validate(paged_bundle.path, run, rows["ids"]).problems
    assert "inputs of a run" in problem


def test_rank_flips_counts_neighbours_that_change_places() -> None:
    a = np.array([0.1, 0.2, 0.3, 0.4])
    assert rank_flips(a, a) == 0
    assert rank_flips(a, np.array([0.1, 0.3, 0.2, 0.4])) == 1
    assert rank_flips(a, -a) == 3
    assert rank_flips(a, np.zeros(4)) == 0


def test_validation_changes_nothing(paged_bundle: Bundle, run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(paged_bundle.path, tmp_path / "b"))
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    validate(copy, run.path)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_on_cuda(bundle: Bundle, run: Run) -> None:
    verdict = validate(bundle.path, run.path, provider="cuda")
    assert verdict.problems == []
    assert set(verdict.to_json()["nodes_by_provider"]) == {"CUDAExecutionProvider"}


def test_the_graph_is_found_whole_by_onnx(bundle: Bundle) -> None:
    onnx.checker.check_model(str(bundle.model), full_check=True)
