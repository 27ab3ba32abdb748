"""`export`: lay out, trace, lower, write, check; the bundle appears whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import polars as pl
import torch

from amtl_export.bundle import signature as sig
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import Checked, Trial, check_valid, raise_problems
from amtl_export.bundle.reference import reference_of
from amtl_export.bundle.samples import write_readme, write_samples
from amtl_export.data.normalise import normalisations
from amtl_export.data.vocabulary import write_frame
from amtl_export.errors import InputError
from amtl_export.files import atomic_folder, producer, write_json, write_sums
from amtl_export.freezing.fields import FieldRows
from amtl_export.freezing.folder import refuse_sources
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.inputs import graph_inputs
from amtl_export.graph.lookups import IdPolicy, Lookup
from amtl_export.graph.pipeline import lower
from amtl_export.graph.trace import LIMITS, trace
from amtl_export.graph.weights import bytes_of
from amtl_export.native import DOMAIN, needed_library
from amtl_export.runtime.session import onnxruntime
from amtl_export.spec import TensorSpec
from amtl_export.tables.layout import stored_bytes
from amtl_export.tables.plan import PlanConfig, TablePlan, for_model, lay_out_all, plan
from amtl_export.tables.values import quantize

#: Version of the metadata keys and of signature.json.
SCHEMA_VERSION = "2"

#: What graphs call their types → numpy.
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BOOL": "bool"}


@dataclass(frozen=True)
class ExportConfig(PlanConfig):
    """How a bundle is written: what is asked of the planner, and the id policy.

    Attributes:
        id_policy: `guard` answers any int64 id, `trust` needs legal ids (ragged tables guard all the same).
        request_fields: fields that are the same for all candidates of a request, and are given once; whole inputs of a
            user's module.
    """

    id_policy: IdPolicy = "guard"
    request_fields: tuple[str, ...] = ()


def export(
    frozen: FrozenModel | Path | str, out: Path | str, config: ExportConfig | None = None, *, overwrite: bool = False
) -> Bundle:
    """Write a bundle and check that ONNX Runtime answers as PyTorch does.

    Args:
        frozen: from `freeze`, or what `freeze` takes.
        out: the bundle folder; appears only when every check has passed.
        config: layout, value type, page width, id policy.
        overwrite: replace an earlier bundle.

    Raises:
        InputError: `out` exists or holds what is read, layout or request fields do not fit, the model cannot be traced.
        ValidationFailed: the written graph does not answer as PyTorch does.
        EnvironmentLacks: ONNX Runtime or the native library is missing; no disk space; no permission.
    """
    onnxruntime()
    config = config or ExportConfig()
    if config.target == "native":
        needed_library()
    frozen = freeze(frozen)
    refuse_sources(frozen, Path(out))
    config = for_model(config, frozen)
    if not frozen.tables:
        raise InputError(
            "the model reads no embedding table that can be frozen",
            found=frozen.origin["backbone"],
            fix="is it the right module? An nn.Embedding with max_norm, a parametrized weight or mode max is none",
        )
    inputs = graph_inputs(frozen.inputs, config.request_fields)
    with atomic_folder(Path(out), overwrite=overwrite) as draft:
        plans = plan(frozen, config)
        stored = quantize(frozen, {path: table.dtype for path, table in plans.items()})
        tables = lay_out_all(frozen, stored, plans)
        model = trace(frozen, inputs)
        traced = count_ops(model)
        lookups = lower(model, plans, tables, config, [spec.name for spec in inputs if spec.shared])
        _describe(model, frozen, config, plans)
        table_bytes = sum(map(stored_bytes, tables.values()))
        del tables
        write_model(model, draft)
        check_valid(draft / "model.onnx")
        reference = reference_of(frozen, stored, model)
        trial = Trial(draft / "model.onnx", reference, inputs, limits=model.meta[LIMITS])
        checked = trial.check(frozen.example, guarded=config.id_policy == "guard")
        raise_problems(checked.problems)
        signature = _signature(frozen, config, inputs, model, plans, lookups, checked)
        write_json(draft / "signature.json", signature.model_dump(mode="json"))
        _write_fields(frozen, draft)
        write_samples(draft, frozen, inputs, trial.session(optimized=True))
        report = _report(frozen, plans, checked, table_bytes + bytes_of(model, frozen.projections))
        write_json(draft / "report.json", report | {"ops_traced": traced, "ops": count_ops(model)})
        write_readme(draft, frozen, signature)
        write_sums(draft)
    return open_bundle(out)


def write_model(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx.data`; large tensors begin on page boundaries, ready to be mapped.

    What was written is read from the file from then on, so that its memory is free. The graph says which operators the
    native library computes (`amtl.operators`).
    """
    model.metadata_props["amtl.operators"] = ",".join(
        sorted(name for domain, name, _ in model.functions if domain == DOMAIN)
    )
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=128)
    if not (folder / "model.onnx.data").is_file():
        raise InputError("the model has no weights worth a file", fix="is the backbone empty?")
    written = ir.load(folder / "model.onnx").graph.initializers
    for name, value in model.graph.initializers.items():
        value.const_value = written[name].const_value


def _signature(
    frozen: FrozenModel,
    config: ExportConfig,
    inputs: tuple[TensorSpec, ...],
    model: ir.Model,
    plans: Mapping[str, TablePlan],
    lookups: list[Lookup],
    checked: Checked,
) -> sig.Signature:
    return sig.Signature(
        producer=producer(),
        source="module" if frozen.data is None else "run",
        inputs=inputs,
        outputs=tuple(_output(value) for value in model.graph.outputs),
        scores=frozen.scores,
        reserved=sig.UNRESERVED if frozen.data is None else sig.RESERVED,
        vocabulary_hash=frozen.vocabulary_hash,
        dtype=config.stored,
        layer_dtype=config.layer_dtype,
        id_policy=config.id_policy,
        main=frozen.table_path,
        tables={path: _table(table_plan) for path, table_plan in plans.items()},
        fields=tuple(own for own in frozen.fields if own.table in plans),
        other_bytes=bytes_of(model, frozen.projections),
        lookups=tuple(lookups),
        batches=checked.batches,
        out_of_range=checked.out_of_range,
        limits=model.meta[LIMITS],
    )


def _table(plan: TablePlan) -> sig.Table:
    return sig.Table(
        layout=plan.layout,
        dtype=plan.dtype,
        dim=plan.dim,
        rows=plan.rows,
        page_width=plan.page_width,
        bytes=plan.bytes,
        bytes_dense=plan.bytes_dense,
    )


def _output(value: ir.Value) -> TensorSpec:
    assert value.dtype is not None
    assert value.shape is not None
    kind = value.dtype.name
    shape = tuple(size if isinstance(size, int) else str(getattr(size, "value", size)) for size in value.shape.dims)
    return TensorSpec(str(value.name), _DTYPES.get(kind, kind.lower()), shape, source=str(value.name))


def _describe(model: ir.Model, frozen: FrozenModel, config: ExportConfig, plans: Mapping[str, TablePlan]) -> None:
    """Fill in `metadata_props` and the graph's own names."""
    mark = producer()
    model.producer_name, model.producer_version = mark["tool"], mark["version"]
    model.graph.name = "amtl_export"
    model.metadata_props.update(
        {
            "amtl.tool": f"{mark['tool']} {mark['version']}",
            "amtl.schema_version": SCHEMA_VERSION,
            "amtl.vocabulary_hash": frozen.vocabulary_hash or "",
            "amtl.layout": plans[frozen.table_path].layout,
            "amtl.dtype": config.stored,
            "amtl.layer_dtype": config.layer_dtype,
            "amtl.id_policy": config.id_policy,
            "amtl.method": str(frozen.origin["method"]),
            "amtl.backbone": str(frozen.origin["backbone"]),
            "amtl.fields": ",".join(own.name for own in frozen.fields),
            "amtl.request_fields": ",".join(config.request_fields),
        }
    )


def _write_fields(frozen: FrozenModel, draft: Path) -> None:
    """`vocab/<field>.parquet`; of a run `schema.json` and `normalisation.json` too, and values beside ids."""
    (draft / "vocab").mkdir()
    if frozen.data is not None:
        schema = frozen.data.schema
        write_json(draft / "schema.json", schema.to_json())
        specs = [spec.model_dump(mode="json") for spec in normalisations(schema).values()]
        write_json(draft / "normalisation.json", specs)
    for own in frozen.fields:
        if own.table not in frozen.tables:
            continue
        dims = frozen.field_dims(own.name).cpu().numpy().astype(np.int32)
        file = draft / "vocab" / f"{own.name}.parquet"
        if frozen.data is not None:
            frozen.data.vocabularies[own.name].write(file, dims=dims)
            continue
        counts = frozen.field_counts(own)
        columns = {"id": np.arange(len(dims), dtype=np.int64), "dims": dims}
        write_frame(pl.DataFrame(columns | ({} if counts is None else {"count": counts})), file)


def count_ops(model: ir.Model) -> dict[str, int]:
    """Operator → how many nodes of the graph are of it."""
    return dict(sorted(Counter(node.op_type for node in model.graph).items()))


def _report(frozen: FrozenModel, plans: Mapping[str, TablePlan], checked: Checked, stored: int) -> dict[str, Any]:
    table = plans[frozen.table_path]
    dense_bytes = frozen.dense_bytes
    return {
        "producer": producer(),
        "origin": frozen.origin,
        "torch": torch.__version__,
        "layout": table.layout,
        "page_width": table.page_width,
        "dtype": table.dtype,
        "plan": {path: table_plan.to_json() for path, table_plan in plans.items()},
        "bytes_dense": dense_bytes,
        "bytes_table": stored,
        "bytes_ratio": stored / dense_bytes,
        "fields": {own.name: _field_report(frozen, own) for own in frozen.fields if own.table in plans},
        "unread_tables": list(frozen.unread),
        "parity_on_samples": checked.parity,
        "unoptimized": checked.unoptimized,
        "batches": checked.batches.model_dump(),
        "out_of_range": checked.out_of_range,
        "compressed": None if frozen.compressed is None else frozen.compressed.report,
    }


def _field_report(frozen: FrozenModel, own: FieldRows) -> dict[str, Any]:
    dims, D = frozen.field_dims(own.name), frozen.dim(own.table)
    kept = dims[dims > 0]
    return {
        "vocab": own.size,
        "dim": D,
        "avg_dim": float(kept.double().mean()) if len(kept) else 0.0,
        "params_dense": own.size * D,
        "params_kept": int(dims.sum()),
    }
