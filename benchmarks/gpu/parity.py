"""Does the device answer as PyTorch on the CPU did? Rows, out-of-range ids, AUC; tables past 2^31 numbers."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card import Card
from lookup import FIELDS, write_layout
from planted import BUNDLES, Planted

from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.freezing.folder import save_frozen
from amtl_export.freezing.frozen import freeze
from amtl_export.freezing.table import FrozenEmbedding
from amtl_export.metrics import auc
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.predictor import load
from amtl_export.tables.plan import PlanConfig
from amtl_export.tables.values import fake_quantized, quantize, value_types
from amtl_export.traffic.draw import from_rows
from amtl_export.training.config import TrainConfig
from amtl_export.training.loop import train
from amtl_export.validation.rows import check_rows, out_of_range_ids
from amtl_export.validation.validate import validate

#: Of a trained model: a table with multi-valued and numeric fields beside it.
DATA = "synthetic:rows=60000,values=3000"

D = 64


def trained(card: Card, folder: Path, data: str = DATA) -> dict[str, Any]:
    """Verdicts of `validate` on the bundles of a model that was trained for this, compressed too; its AUC with TF32."""
    run = train(TrainConfig(data=data, epochs=1, dim=16), folder / "trained")
    compressed = folder / "compressed"
    save_frozen(compress(run, dim_budget=0.3, all_fields=True, curve=False), compressed)
    rows = run.rows("test")
    found: dict[str, Any] = {"verdicts": {}, "auc_tf32": {}}
    for (kind, source), (layout, config) in itertools.product(
        {"": run.path, "-compressed": compressed}.items(), BUNDLES.items()
    ):
        name = layout + kind
        fused: ExportConfig = replace(config, first_layer="auto")
        bundle = export(freeze(source), folder / f"trained-{name}", fused)
        verdict = validate(bundle.path, source, provider=card.kind)
        found["verdicts"][name] = verdict.to_json() | {"bundle": name, "run": ""}
        if card.kind == "cuda":
            tf32 = load(bundle.path, provider="cuda", cuda=Cuda(tf32=True))
            logits = tf32.predict(from_rows(rows, run.model_config), ["logit"])["logit"]
            found["auc_tf32"][name] = auc(logits, rows.label)
    return found


def every_row(card: Card, planted: Planted) -> dict[str, Any]:
    """Every row of the planted table, bit for bit, and out-of-range ids."""
    found = {}
    for name, bundle in planted.bundles.items():
        rows = quantize(planted.frozen, value_types(planted.frozen, BUNDLES[name].stored))
        stored = fake_quantized(planted.frozen, rows)
        check = check_rows(bundle, stored, card.kind, optimized=True)
        found[name] = asdict(check)
    return found


def problems(trained_ones: dict[str, Any], rows: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    said = [f"{name}: {line}" for name, own in trained_ones["verdicts"].items() for line in own["problems"]]
    return said + [f"{name}: {line}" for name, own in rows.items() for line in own["wrong"]]


def mark(row: Any) -> Any:
    """What the numbers of a row are: neighbours differ by more than int8 rounds off."""
    return row % 8191 + 8192


def past(card: Card, numbers: int, folder: Path) -> dict[str, Any]:
    """Tables of more than `numbers` numbers: the last rows of the last field, and out-of-range ids, by layout.

    Each number says which row it is of, so that one from elsewhere is seen.
    """
    rows = (numbers // D // FIELDS + 1) * FIELDS
    size = rows // FIELDS
    table = torch.empty(rows, D)
    for start in range(0, rows, 1 << 20):  # float32 holds whole numbers up to 2^24 exactly
        part = torch.arange(start, min(start + (1 << 20), rows))
        table[start : start + (1 << 20)] = mark(part).unsqueeze(1).float()
    own = FrozenEmbedding(table, torch.full((rows,), D), [size] * FIELDS, [field * size for field in range(FIELDS)])
    last = np.arange(size - 1000, size)[:, None].repeat(FIELDS, axis=1)
    out_of_range = np.array(out_of_range_ids(size))[:, None].repeat(FIELDS, axis=1)
    found: dict[str, Any] = {"numbers": rows * D}
    for name, config in {"dense": PlanConfig("dense"), "ragged-int8": PlanConfig("ragged", "int8")}.items():
        (folder / name).mkdir()
        write_layout(own, config, folder / name / "model.onnx")
        predictor = load(folder / name, provider=card.kind, native=config.layout == "ragged")
        for what, ids in (("last", last), ("out_of_range", out_of_range)):
            answer = predictor.predict({"ids": ids})["rows"]
            legal = np.where((ids < 0) | (ids >= size), 0, ids) + np.array(own.offsets)
            expected = np.broadcast_to(mark(legal)[..., None], answer.shape)
            worst = float(np.abs(answer / expected - 1).max())
            found[f"{name}_{what}_worst_relative_difference"] = worst
            assert worst <= (0.0 if config.dtype == "fp32" else 5e-5), (name, what, worst)
        del predictor
        (folder / name / "model.data").unlink()
    return found
