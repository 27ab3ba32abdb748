"""The value type that a largest AUC drop allows."""

import math
from pathlib import Path

import pytest

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.bundle.value_types import auc_changes, choose_dtype
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.native import library_path
from amtl_export.report.inspection import inspect
from amtl_export.tables.plan import LayoutName
from amtl_export.tables.values import VALUE_TYPES, ValueType
from amtl_export.training.run import Run
from amtl_export.training.tensors import load_tensors, save_tensors
from amtl_export.validation.validate import validate
from amtl_export.validation.verdict import Tolerances


def test_a_type_that_cannot_hold_the_numbers_is_not_allowed(run_copy: Path) -> None:
    file = run_copy / "model.safetensors"
    tensors = load_tensors(file)
    (table,) = [
        name for name in tensors if name.startswith("embedding") and name.endswith("weight") and "sel" not in name
    ]
    tensors[table][5, 0] = 1e6
    file.unlink()
    save_tensors(tensors, file)
    frozen = freeze(run_copy)
    changes = auc_changes(frozen)
    assert changes["fp32"] == 0
    assert changes["fp16"] == math.inf
    assert math.isfinite(changes["int8"])
    assert choose_dtype(frozen, ExportConfig(), max_auc_drop=0).dtype in [d for d in VALUE_TYPES if changes[d] == 0]


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("auto", "int4"), ("ragged", "int4"), ("dense", "int4"), ("paged", "int8"), ("blocks", "int8")],
)
def test_the_smallest_type_that_the_layout_holds(frozen: FrozenModel, layout: LayoutName, dtype: ValueType) -> None:
    assert choose_dtype(frozen, ExportConfig(layout), max_auc_drop=1).dtype == dtype


@pytest.mark.parametrize(
    "config",
    [
        ExportConfig(dtype="int4"),
        ExportConfig("ragged", "int4", first_layer="plain"),
        ExportConfig("ragged", "int4", target="native"),
        ExportConfig("ragged", "int4", target="native", layer_dtype="int8"),
    ],
    ids=lambda config: f"{config.layout}-{config.first_layer}-{config.target}-{config.layer_dtype}",
)
def test_a_bundle_of_int4(frozen: FrozenModel, run: Run, tmp_path: Path, config: ExportConfig) -> None:
    if config.target == "native" and library_path() is None:
        pytest.skip("the native operator was not built: no C compiler")
    bundle = export(frozen, tmp_path / "bundle", config)
    table = bundle.signature.table
    assert (table.layout, table.dtype) == ("dense" if config.layout == "auto" else "ragged", "int4")
    assert table.bytes < table.bytes_dense / 5
    verdict = validate(bundle.path, run.path, tolerances=Tolerances(auc_atol=0.02))
    assert verdict.problems == []
    assert verdict.rows_bit_equal == verdict.rows_checked
    found = inspect(bundle.path)
    dims = {own.name: bundle.dims(own.name) for own in bundle.signature.fields}
    assert {field.name: field.bytes_kept for field in found.fields} == {
        name: int(((kept + 1) // 2).sum()) for name, kept in dims.items()
    }
