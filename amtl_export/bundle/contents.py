"""What stands in a bundle beside its graph: the signature, vocabularies and report that follow from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import polars as pl

from amtl_export.bundle import signature as sig
from amtl_export.bundle.check import Checked
from amtl_export.compare import INT8_TOLERANCE, TOLERANCE
from amtl_export.data.frame_parts import FrameParts
from amtl_export.data.normalise import normalisations
from amtl_export.data.vocabulary import vocabulary_file
from amtl_export.files import producer, write_json
from amtl_export.freezing.field_rows import FieldRows
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.lookups import Lookup
from amtl_export.graph.weights import bytes_of, multiplies_int8
from amtl_export.runtime.session import onnxruntime
from amtl_export.spec import TensorSpec
from amtl_export.tables.plan import TablePlan
from amtl_export.tables.values import Stored

if TYPE_CHECKING:
    from amtl_export.bundle.export import ExportConfig

#: What graphs call their types → numpy.
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BOOL": "bool"}

#: Packages that a graph depends on: with another version of one it need not be the same.
EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Built:
    """A bundle's graph, and what it was made of.

    Attributes:
        frozen: the model.
        config: the settings, value type decided.
        inputs: of the graph.
        plans: table → how it is stored.
        stored: table → its rows in their value type.
        table_bytes: of all tables as stored.
        model: the graph, with their arrays.
        lookups: where it looks rows up.
        limits: dimension → its largest size, where the model has one.
        traced: operator → nodes, before the graph was lowered.
    """

    frozen: FrozenModel
    config: ExportConfig
    inputs: tuple[TensorSpec, ...]
    plans: Mapping[str, TablePlan]
    stored: Mapping[str, Stored]
    table_bytes: int
    model: ir.Model
    lookups: tuple[Lookup, ...]
    limits: dict[str, int]
    traced: dict[str, int]

    @property
    def tolerance(self) -> float:
        """What its answers may differ from PyTorch's; see `compare`."""
        return INT8_TOLERANCE if multiplies_int8(self.model) else TOLERANCE


def onnxruntime_version() -> str:
    """Of the runtime that answers here."""
    return str(onnxruntime().__version__)


def versions() -> dict[str, str]:
    """Package → version, of all that a graph depends on."""
    return {name: version(name) for name in EXPORTERS}


def signature_of(built: Built, checked: Checked) -> sig.Signature:
    """`signature.json`.

    Args:
        built: the bundle's graph.
        checked: what trying it came to.
    """
    frozen, config, plans = built.frozen, built.config, built.plans
    return sig.Signature(
        producer=producer(),
        source="module" if frozen.data is None else "run",
        inputs=built.inputs,
        outputs=tuple(_output(value) for value in built.model.graph.outputs),
        scores=frozen.scores,
        reserved=sig.UNRESERVED if frozen.data is None else sig.RESERVED,
        vocabulary_hash=frozen.vocabulary_hash,
        dtype=config.stored,
        layer_dtype=config.layer_dtype,
        id_policy=config.id_policy,
        main=frozen.table_path,
        tables={path: _table(table_plan) for path, table_plan in plans.items()},
        fields=tuple(own for own in frozen.fields if own.table in plans),
        other_bytes=bytes_of(built.model, frozen.projections),
        lookups=built.lookups,
        batches=checked.batches,
        out_of_range=checked.out_of_range,
        limits=built.limits,
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


def write_fields(frozen: FrozenModel, draft: Path) -> None:
    """`vocab/<field>.parquet`, and of a run `schema.json` and `normalisation.json`."""
    (draft / "vocab").mkdir()
    for name, values in field_settings(frozen).items():
        write_json(draft / name, values)
    for name, frame in field_frames(frozen):
        frame.write(draft / vocabulary_file(name))


def field_settings(frozen: FrozenModel) -> dict[str, Any]:
    """File → its JSON values: what a run's columns mean, and what each field does to a raw value."""
    if frozen.data is None:
        return {}
    schema = frozen.data.schema
    specs = [spec.model_dump(mode="json") for spec in normalisations(schema).values()]
    return {"schema.json": schema.to_json(), "normalisation.json": specs}


def field_frames(frozen: FrozenModel) -> Iterator[tuple[str, FrameParts]]:
    """Every exported field and what stands in its file: ids, counts and dims; of a run also values."""
    for own in frozen.fields:
        if own.table not in frozen.tables:
            continue
        dims = frozen.field_dims(own.name).cpu().numpy()
        if frozen.data is not None:
            values = frozen.data.vocabularies[own.name].to_frame()
            yield own.name, FrameParts.of(values.with_columns(dims=pl.Series(dims.astype(np.int32))))
        else:
            yield own.name, FrameParts(own.size, partial(_rows_of_ids, dims, frozen.field_counts(own)))


def _rows_of_ids(
    dims: npt.NDArray[np.int64], counts: npt.NDArray[np.int64] | None, first: int, past: int
) -> pl.DataFrame:
    """Some rows of the file of a user's table."""
    columns = {"id": np.arange(first, past, dtype=np.int64), "dims": dims[first:past].astype(np.int32)}
    return pl.DataFrame(columns | ({} if counts is None else {"count": counts[first:past]}))


def count_ops(model: ir.Model) -> dict[str, int]:
    """Operator → how many nodes of the graph are of it."""
    return dict(sorted(Counter(node.op_type for node in model.graph).items()))


def report_of(built: Built, checked: Checked) -> dict[str, Any]:
    """`report.json`: settings and versions, from which the bundle can be made anew, and what it came to.

    Args:
        built: the bundle's graph.
        checked: what trying it came to.
    """
    frozen, plans = built.frozen, built.plans
    table = plans[frozen.table_path]
    dense_bytes = frozen.dense_bytes
    stored = built.table_bytes + bytes_of(built.model, frozen.projections)
    return {
        "producer": producer(),
        "origin": frozen.origin,
        "versions": versions(),
        "onnxruntime": onnxruntime_version(),
        "settings": asdict(built.config) | {"request_fields": list(built.config.request_fields)},
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
        "ops_traced": built.traced,
        "ops": count_ops(built.model),
        "compressed": None if frozen.compressed is None else frozen.compressed.report,
    }


def _field_report(frozen: FrozenModel, own: FieldRows) -> dict[str, Any]:
    dims, D = frozen.field_dims(own.name).numpy(), frozen.dim(own.table)
    kept, rows = int(dims.sum()), int(np.count_nonzero(dims))
    return {
        "vocab": own.size,
        "dim": D,
        "avg_dim": kept / rows if rows else 0.0,
        "params_dense": own.size * D,
        "params_kept": kept,
    }
