"""`export`: freeze, lay out, trace, lower, write, check; the bundle appears whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from amtl_export.bundle import signature as sig
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import check_bundle
from amtl_export.bundle.samples import write_readme, write_samples
from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, producer, read_json, write_json, write_sums
from amtl_export.freezing.frozen import FrozenModel, freeze, load_frozen
from amtl_export.graph.first_layer import fuse_first_layers
from amtl_export.graph.inputs import Input, model_inputs
from amtl_export.graph.lower import IdPolicy, Lookup, lower_lookups
from amtl_export.graph.pooling import fuse_sums
from amtl_export.graph.request import hoist_request
from amtl_export.graph.trace import trace
from amtl_export.graph.weights import with_quantized_weights
from amtl_export.native import DOMAIN, needed_library
from amtl_export.runtime.session import onnxruntime
from amtl_export.tables.layout import LaidOut, Paged, stored_bytes
from amtl_export.tables.plan import PlanConfig, TablePlan, lay_out_all, plan_table
from amtl_export.tables.values import ValueType, quantized
from amtl_export.training.run import load_run

#: Version of the metadata keys and of signature.json.
SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class ExportConfig(PlanConfig):
    """How a bundle is written: what is asked of the planner, and the id policy.

    Attributes:
        id_policy: `guard` answers any int64 id, `trust` needs legal ids (ragged tables guard all the same).
        request_fields: fields that are the same for all candidates of a request, and are given once.
    """

    id_policy: IdPolicy = "guard"
    request_fields: tuple[str, ...] = ()


def open_exportable(path: Path) -> FrozenModel:
    """The frozen model of a run or of a frozen folder.

    Raises:
        InputError: the folder is neither.
    """
    if path.is_dir() and (path / "config.json").is_file() and read_json(path / "config.json").get("kind") == "frozen":
        return load_frozen(path)
    return freeze(load_run(path))


def export(frozen: FrozenModel, out: Path, config: ExportConfig | None = None, *, overwrite: bool = False) -> Bundle:
    """Write a bundle and check that ONNX Runtime answers as PyTorch does on its samples.

    Args:
        frozen: from `freeze`.
        out: the bundle folder; appears only when every check has passed.
        config: layout, value type, page width, id policy.
        overwrite: replace an earlier bundle.

    Raises:
        InputError: `out` exists, the layout or the request fields do not fit, or the backbone cannot be exported.
        ValidationFailed: the written graph does not answer as PyTorch does.
        EnvironmentLacks: ONNX Runtime, or for target `native` its library, is missing; no disk space; no permission.
    """
    onnxruntime()
    config = config or ExportConfig()
    if config.target == "native":
        needed_library()
    inputs = model_inputs(frozen.config, config.request_fields)
    with atomic_folder(out, overwrite=overwrite) as draft:
        plans = plan(frozen, config)
        tables = lay_out_all(frozen.tables, plans)
        model = trace(frozen.module, inputs)
        traced = count_ops(model)
        hoist_request(model, [spec.name for spec in inputs if spec.request])
        lookups = lower(model, plans, tables, config)
        signature = _signature(frozen, config, inputs, tables, lookups)
        _describe(model, frozen, signature)
        write_model(model, draft)
        write_json(draft / "schema.json", frozen.schema.to_json())
        write_json(draft / "signature.json", signature.model_dump(mode="json"))
        _write_vocabularies(frozen, draft)
        checked = check_bundle(draft, fake_quantized(frozen, config.dtype, model.graph.initializers), inputs)
        write_samples(draft, frozen, inputs, checked.session)
        write_json(
            draft / "report.json",
            _report(frozen, plans, tables, checked.parity) | {"ops_traced": traced, "ops": count_ops(model)},
        )
        write_readme(draft, frozen, signature)
        write_sums(draft)
    return open_bundle(out)


def plan(frozen: FrozenModel, config: PlanConfig) -> dict[str, TablePlan]:
    """Path of each table → how `export` would store it; nothing is written.

    Raises:
        InputError: the page width does not fit.
    """
    in_blocks = {frozen.table_path} if frozen.projection_bytes else set()
    counts = _row_counts(frozen)
    return {
        path: plan_table(table, config, counts, in_blocks=path in in_blocks) for path, table in frozen.tables.items()
    }


def lower(
    model: ir.Model, plans: Mapping[str, TablePlan], tables: Mapping[str, LaidOut], config: ExportConfig
) -> list[Lookup]:
    """Turn a traced graph's custom ops into those of the planned layouts, in place; where the lookups are now.

    Raises:
        InputError: a fused first layer was asked for, and no layer can be fused.
    """
    fuse_sums(model, [path for path, table in plans.items() if table.layout == "ragged"])
    fusible = [path for path, table in plans.items() if table.fused]
    fuse_first_layers(model, fusible, required=config.fuses, int8=config.layer_dtype == "int8")
    return lower_lookups(model, tables, config.id_policy)


def fake_quantized(frozen: FrozenModel, dtype: ValueType, initializers: Iterable[str]) -> FrozenModel:
    """The model that a bundle stands for: the fake-quantized reference, its tables in their value
    type and its layers with the weights that it holds.

    Args:
        frozen: what was exported.
        dtype: of the tables.
        initializers: names of the bundle's.
    """
    tables = quantized(frozen, dtype)
    return replace(tables, module=with_quantized_weights(tables.module, initializers))


def _row_counts(frozen: FrozenModel) -> npt.NDArray[np.int64]:
    """int64 `[V_total]`: how often training saw each row, over all fields that read it."""
    table = frozen.table
    counts = np.zeros(len(table.dims), dtype=np.int64)
    for field, offset in zip(frozen.config.embedded, table.offsets, strict=True):
        seen = frozen.vocabularies[field.name].counts
        counts[offset : offset + len(seen)] += seen
    return counts


def write_model(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx.data`; large tensors begin on page boundaries, ready to be mapped.

    The graph says which operators the native library computes (`amtl.operators`).
    """
    model.metadata_props["amtl.operators"] = ",".join(
        sorted(name for domain, name, _ in model.functions if domain == DOMAIN)
    )
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=128)
    if not (folder / "model.onnx.data").is_file():
        raise InputError("the model has no weights worth a file", fix="is the backbone empty?")


def _signature(
    frozen: FrozenModel,
    config: ExportConfig,
    inputs: Sequence[Input],
    tables: Mapping[str, LaidOut],
    lookups: list[Lookup],
) -> sig.Signature:
    table = tables[frozen.table_path]
    graph_inputs, outputs = sig.tensors(frozen.config, inputs)
    return sig.Signature(
        producer=producer(),
        inputs=graph_inputs,
        outputs=outputs,
        reserved=sig.RESERVED,
        vocabulary_hash=frozen.vocabulary_hash,
        layout=table.layout,
        dtype=config.dtype,
        layer_dtype=config.layer_dtype,
        id_policy=config.id_policy,
        dim=table.dim,
        page_width=table.width if isinstance(table, Paged) else None,
        table_rows=len(frozen.table.dims),
        table_bytes=sum(map(stored_bytes, tables.values())) + frozen.projection_bytes,
        lookups=sig.sites(lookups),
    )


def _describe(model: ir.Model, frozen: FrozenModel, signature: sig.Signature) -> None:
    """Fill in `metadata_props` and the graph's own names."""
    mark = producer()
    model.producer_name, model.producer_version = mark["tool"], mark["version"]
    model.graph.name = "amtl_export"
    model.metadata_props.update(
        {
            "amtl.tool": f"{mark['tool']} {mark['version']}",
            "amtl.schema_version": SCHEMA_VERSION,
            "amtl.vocabulary_hash": frozen.vocabulary_hash,
            "amtl.layout": signature.layout,
            "amtl.dtype": signature.dtype,
            "amtl.layer_dtype": signature.layer_dtype,
            "amtl.id_policy": signature.id_policy,
            "amtl.method": str(frozen.origin["method"]),
            "amtl.backbone": str(frozen.origin["backbone"]),
            "amtl.fields": ",".join(field.name for field in frozen.config.embedded),
            "amtl.request_fields": ",".join(signature.request_fields),
        }
    )


def _write_vocabularies(frozen: FrozenModel, draft: Path) -> None:
    (draft / "vocab").mkdir()
    for name, vocabulary in frozen.vocabularies.items():
        dims = frozen.field_dims(name).cpu().numpy().astype(np.int32)
        vocabulary.write(draft / "vocab" / f"{name}.parquet", dims=dims)


def count_ops(model: ir.Model) -> dict[str, int]:
    """Operator → how many nodes of the graph are of it."""
    return dict(sorted(Counter(node.op_type for node in model.graph).items()))


def _report(
    frozen: FrozenModel, plans: Mapping[str, TablePlan], tables: Mapping[str, LaidOut], parity: dict[str, float]
) -> dict[str, Any]:
    table = tables[frozen.table_path]
    dense_bytes = frozen.dense_bytes
    stored = sum(map(stored_bytes, tables.values())) + frozen.projection_bytes
    fields = {}
    for field in frozen.config.embedded:
        dims = frozen.field_dims(field.name)
        kept = dims[dims > 0]
        fields[field.name] = {
            "vocab": field.size,
            "dim": table.dim,
            "avg_dim": float(kept.double().mean()),
            "params_dense": field.size * table.dim,
            "params_kept": int(dims.sum()),
        }
    return {
        "producer": producer(),
        "origin": frozen.origin,
        "torch": torch.__version__,
        "layout": table.layout,
        "page_width": table.width if isinstance(table, Paged) else None,
        "dtype": plans[frozen.table_path].dtype,
        "plan": {path: table_plan.to_json() for path, table_plan in plans.items()},
        "bytes_dense": dense_bytes,
        "bytes_table": stored,
        "bytes_ratio": stored / dense_bytes,
        "fields": fields,
        "parity_on_samples": parity,
    }
