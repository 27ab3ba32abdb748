"""The planted table of 1,000,000 rows, as bundles in every layout and value type that a GPU can serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infer_synthetic_1m import HIDDEN, planted_run

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.freezing.frozen import FrozenModel, freeze

BUNDLES = {
    "onnx-dense": ExportConfig(layout="dense"),
    "onnx-dense-fp16": ExportConfig(layout="dense", dtype="fp16"),
    "onnx-paged": ExportConfig(layout="paged"),
    "onnx-blocks": ExportConfig(layout="blocks"),
    "onnx-ragged": ExportConfig(layout="ragged", first_layer="plain"),
    "onnx-ragged-fp16": ExportConfig(layout="ragged", first_layer="plain", dtype="fp16"),
    "onnx-ragged-int8": ExportConfig(layout="ragged", first_layer="plain", dtype="int8"),
    "onnx-ragged-int4": ExportConfig(layout="ragged", first_layer="plain", dtype="int4"),
}


@dataclass(frozen=True)
class Planted:
    """A frozen model and its bundles."""

    frozen: FrozenModel
    bundles: dict[str, Bundle]


def plant(rows: int, folder: Path) -> Planted:
    """The model with `rows` table rows, exported."""
    frozen = freeze(planted_run(rows, HIDDEN, folder / "run"))
    return Planted(frozen, {name: export(frozen, folder / name, wanted) for name, wanted in BUNDLES.items()})
