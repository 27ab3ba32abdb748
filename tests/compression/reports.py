"""What every report of a compressed model holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amtl_export.compression.cuts import feeds, table_bytes
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import torch_auc
from amtl_export.tables.values import fake_quantized, quantize, value_types


def report_of(model: FrozenModel) -> dict[str, Any]:
    assert model.compressed is not None
    return model.compressed.report


def check_report(model: FrozenModel, original: FrozenModel) -> None:
    """Every number of the report, counted again in the model."""
    report = report_of(model)
    dims = {name: model.field_dims(name).numpy() for name in report["fields"]}
    whole = 0
    for name, own in report["fields"].items():
        kept = dims[name][dims[name] > 0]
        assert own["avg_dim"] == pytest.approx(kept.mean())
        assert (own["longest"], own["rows"]) == (kept.max(), len(dims[name]))
        assert own["bytes_after"] == 4 * kept.sum()
        assert own["bytes_before"] == 4 * own["dim"] * own["rows"]
        assert len(own["energy"]) == own["dim"]
        assert (np.diff(own["energy"]) >= -1e-12).all()
        assert own["energy"][-1] == pytest.approx(1)
        assert 0 <= own["effective_rank"] <= own["dim"] + 1e-9
        assert report["basis"][name] == own["basis"]
        whole += own["dim"] * len(kept)
    assert report["avg_dim_ratio"] == pytest.approx(sum(int(own.sum()) for own in dims.values()) / whole)
    assert report["bytes_before"] == original.dense_bytes
    (placement,) = (own for own in report["placements"] if own["chosen"])
    (point,) = (own for own in report["curve"] if own["chosen"])
    stored = table_bytes(model, report["dtype"])
    assert report["bytes_after"] == stored + placement["projection_bytes"] == point["bytes"]
    assert report["max_abs_logit_diff_before_cut"] <= 1e-4
    read_back = fake_quantized(model, quantize(model, value_types(model, report["dtype"])))
    answers = [(original.answers(feed), read_back.answers(feed)) for feed in feeds(original)]
    pairs = [(was[name].ravel(), now[name].ravel()) for was, now in answers for name in model.scores]
    was, now = (np.concatenate(own) for own in zip(*pairs, strict=True))
    cut = report["answers_after_cut"]
    assert cut["examples"] == len(was)
    assert cut["max_abs_diff"] == pytest.approx(np.abs(now - was).max(), abs=1e-5)
    assert cut["mean_abs_diff"] == pytest.approx(np.abs(now - was).mean(), abs=1e-5)
    assert cut["std"] == pytest.approx(was.std(), abs=1e-5)
    if report["auc_valid_before"] is not None:
        for split_model, key in ((original, "auc_valid_before"), (read_back, "auc_valid_after")):
            aucs = torch_auc(split_model, "valid", trained=split_model is original)
            assert aucs == {split_model.score: pytest.approx(report[key], abs=1e-12)}
