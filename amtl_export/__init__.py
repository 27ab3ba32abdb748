"""From a trained click-through model with adaptive embedding sizes to a small, fast, proven ONNX file.

Every step is one function from one typed value to the next; nothing heavy is imported before it is used.

    run = train(TrainConfig(data="synthetic"), Path("runs/first"))
    bundle = export(freeze(run), Path("bundles/first"))
    verdict = validate(bundle.path, run.path)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amtl_export.bench.infer import InferConfig, bench_infer
    from amtl_export.bench.server import ServerBenchConfig, bench_server
    from amtl_export.bench.train import bench_train
    from amtl_export.bundle.bundle import Bundle, open_bundle
    from amtl_export.bundle.export import ExportConfig, export
    from amtl_export.data.catalog import open_source
    from amtl_export.data.describe import describe
    from amtl_export.errors import AmtlError
    from amtl_export.freezing.folder import load_frozen, save_frozen
    from amtl_export.freezing.frozen import FrozenModel, freeze
    from amtl_export.models.attach import (
        attach,
        count_ids,
        detach,
        dim_penalty,
        project_to_budget,
        selection_parameters,
    )
    from amtl_export.report.inspection import inspect
    from amtl_export.runtime.predictor import Predictor, load
    from amtl_export.scoring.score import ScoreConfig, score
    from amtl_export.serving.package import PackageConfig, package
    from amtl_export.source.source import Source
    from amtl_export.training.config import TrainConfig
    from amtl_export.training.loop import train
    from amtl_export.training.run import Run, load_run
    from amtl_export.validation.validate import validate
    from amtl_export.validation.verdict import Tolerances, Verdict

#: The version, here alone: pyproject.toml reads it from this line.
__version__ = "0.2.0"

_HOME = {
    "AmtlError": "errors",
    "Bundle": "bundle.bundle",
    "ExportConfig": "bundle.export",
    "FrozenModel": "freezing.frozen",
    "InferConfig": "bench.infer",
    "PackageConfig": "serving.package",
    "Predictor": "runtime.predictor",
    "Run": "training.run",
    "ScoreConfig": "scoring.score",
    "ServerBenchConfig": "bench.server",
    "Source": "source.source",
    "Tolerances": "validation.verdict",
    "TrainConfig": "training.config",
    "Verdict": "validation.verdict",
    "attach": "models.attach",
    "bench_infer": "bench.infer",
    "bench_server": "bench.server",
    "bench_train": "bench.train",
    "compress": "compression.compress",
    "count_ids": "models.attach",
    "describe": "data.describe",
    "detach": "models.attach",
    "dim_penalty": "models.attach",
    "export": "bundle.export",
    "freeze": "freezing.frozen",
    "inspect": "report.inspection",
    "load": "runtime.predictor",
    "load_frozen": "freezing.folder",
    "load_run": "training.run",
    "open_bundle": "bundle.bundle",
    "open_source": "data.catalog",
    "package": "serving.package",
    "project_to_budget": "models.attach",
    "save_frozen": "freezing.folder",
    "score": "scoring.score",
    "selection_parameters": "models.attach",
    "train": "training.loop",
    "validate": "validation.validate",
}

__all__ = [
    "AmtlError",
    "Bundle",
    "ExportConfig",
    "FrozenModel",
    "InferConfig",
    "PackageConfig",
    "Predictor",
    "Run",
    "ScoreConfig",
    "ServerBenchConfig",
    "Source",
    "Tolerances",
    "TrainConfig",
    "Verdict",
    "attach",
    "bench_infer",
    "bench_server",
    "bench_train",
    "compress",
    "count_ids",
    "describe",
    "detach",
    "dim_penalty",
    "export",
    "freeze",
    "inspect",
    "load",
    "load_frozen",
    "load_run",
    "open_bundle",
    "open_source",
    "package",
    "project_to_budget",
    "save_frozen",
    "score",
    "selection_parameters",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        from amtl_export.extras import lacking

        if (lacks := lacking(error)) is None:
            raise
        raise lacks from error
