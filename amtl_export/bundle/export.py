"""`export`: freeze, lay out, trace, lower, write, check; the bundle appears whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch

from amtl_export.bundle import signature as sig
from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import check_bundle
from amtl_export.bundle.samples import write_readme, write_samples
from amtl_export.errors import InputError
from amtl_export.files import made_by, read_json, whole_folder, write_json, write_sums
from amtl_export.freezing.frozen import FrozenEmbedding, FrozenModel, freeze, load_frozen
from amtl_export.graph.lower import IdPolicy, Lookup, lower_lookups
from amtl_export.graph.trace import trace
from amtl_export.runtime.session import onnxruntime
from amtl_export.tables.cost import best_width, choose_layout
from amtl_export.tables.layout import LaidOut, Paged, blocks, dense, paged, ragged, stored_bytes
from amtl_export.training.run import load_run

LayoutName = Literal["auto", "dense", "paged", "blocks", "ragged"]
LAYOUTS: tuple[LayoutName, ...] = ("auto", "dense", "paged", "blocks", "ragged")

#: Tables of fewer floats a row are never paged: a page number alone is one.
NARROW = 4

#: Version of the metadata keys and of signature.json.
SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class ExportConfig:
    """How a bundle is written.

    Attributes:
        layout: of the table; `auto` takes paged where that saves at least a tenth of the bytes, blocks for mde.
        dtype: of the stored values.
        page_width: c of the paged layout; None lets the cost model choose.
        id_policy: `guard` answers any int64 id, `trust` needs legal ids.
    """

    layout: LayoutName = "auto"
    dtype: Literal["fp32"] = "fp32"
    page_width: int | None = None
    id_policy: IdPolicy = "guard"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError("export: unknown layout", found=self.layout, allowed=", ".join(LAYOUTS))
        if self.page_width is not None and self.layout != "paged":
            raise InputError("export: a page width goes with --layout paged", found=self.layout)


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
        config: layout, page width, id policy.
        overwrite: replace an earlier bundle.

    Raises:
        InputError: `out` exists, the layout does not fit, or the backbone cannot be exported.
        ValidationFailed: the written graph does not answer as PyTorch does.
        EnvironmentLacks: ONNX Runtime is missing; no disk space; no permission.
    """
    onnxruntime()
    config = config or ExportConfig()
    with whole_folder(out, overwrite=overwrite) as draft:
        in_blocks = {frozen.table_path} if frozen.projection_bytes else ()
        tables = lay_out_tables(frozen.tables, config, in_blocks)
        model = trace(frozen.module)
        lookups = lower_lookups(model, tables, config.id_policy)
        signature = _signature(frozen, config, tables, lookups)
        _describe(model, frozen, signature)
        write_model(model, draft)
        write_json(draft / "schema.json", frozen.schema.to_json())
        write_json(draft / "signature.json", signature.model_dump(mode="json"))
        _write_vocabularies(frozen, draft)
        checked = check_bundle(draft, frozen, signature)
        write_samples(draft, frozen, checked.session)
        write_json(draft / "report.json", _report(frozen, tables, model, checked.parity))
        write_readme(draft, frozen, signature)
        write_sums(draft)
    return open_bundle(out)


def lay_out_tables(
    tables: Mapping[str, FrozenEmbedding], config: ExportConfig, in_blocks: Collection[str] = ()
) -> dict[str, LaidOut]:
    """Path of each table → the table laid out as asked; tables narrower than four floats (a wide part) stay dense.

    Args:
        tables: path → table.
        config: layout and page width.
        in_blocks: paths of tables whose method gives dims to blocks of neighbouring rows.

    Raises:
        InputError: the page width does not fit.
    """
    laid_out: dict[str, LaidOut] = {}
    for path, table in tables.items():
        rows, dims = table.rows.cpu().numpy(), table.dims.cpu().numpy()
        D = rows.shape[1]
        layout = choose_layout(dims, D, in_blocks=path in in_blocks) if config.layout == "auto" else config.layout
        if layout == "dense" or D < NARROW:
            laid_out[path] = dense(rows)
            continue
        if layout != "paged":
            laid_out[path] = (blocks if layout == "blocks" else ragged)(rows, dims)
            continue
        try:
            laid_out[path] = paged(rows, dims, config.page_width or best_width(dims, D).width)
        except ValueError as error:
            raise InputError("export: the table cannot be paged", found=error, fix="another --page-width") from None
    return laid_out


def write_model(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx.data`; large tensors begin on page boundaries, ready to be mapped."""
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=128)
    if not (folder / "model.onnx.data").is_file():
        raise InputError("the model has no weights worth a file", fix="is the backbone empty?")


def _signature(
    frozen: FrozenModel, config: ExportConfig, tables: Mapping[str, LaidOut], lookups: list[Lookup]
) -> sig.Signature:
    table = tables[frozen.table_path]
    inputs, outputs = sig.tensors(frozen.config)
    return sig.Signature(
        made_by=made_by(),
        inputs=inputs,
        outputs=outputs,
        reserved=sig.RESERVED,
        vocabulary_hash=frozen.vocabulary_hash,
        layout=table.layout,
        dtype=config.dtype,
        id_policy=config.id_policy,
        dim=table.dim,
        page_width=table.width if isinstance(table, Paged) else None,
        table_rows=len(frozen.table.dims),
        table_bytes=sum(map(stored_bytes, tables.values())) + frozen.projection_bytes,
        lookups=sig.sites(lookups),
    )


def _describe(model: ir.Model, frozen: FrozenModel, signature: sig.Signature) -> None:
    """Fill in `metadata_props` and the graph's own names."""
    mark = made_by()
    model.producer_name, model.producer_version = mark["tool"], mark["version"]
    model.graph.name = "amtl_export"
    model.metadata_props.update(
        {
            "amtl.tool": f"{mark['tool']} {mark['version']}",
            "amtl.schema_version": SCHEMA_VERSION,
            "amtl.vocabulary_hash": frozen.vocabulary_hash,
            "amtl.layout": signature.layout,
            "amtl.dtype": signature.dtype,
            "amtl.id_policy": signature.id_policy,
            "amtl.method": str(frozen.origin["method"]),
            "amtl.backbone": str(frozen.origin["backbone"]),
            "amtl.fields": ",".join(field.name for field in frozen.config.embedded),
        }
    )


def _write_vocabularies(frozen: FrozenModel, draft: Path) -> None:
    (draft / "vocab").mkdir()
    for name, vocabulary in frozen.vocabularies.items():
        dims = frozen.field_dims(name).cpu().numpy().astype(np.int32)
        vocabulary.write(draft / "vocab" / f"{name}.parquet", dims=dims)


def _report(
    frozen: FrozenModel, tables: Mapping[str, LaidOut], model: ir.Model, parity: dict[str, float]
) -> dict[str, Any]:
    table = tables[frozen.table_path]
    ops: dict[str, int] = {}
    for node in model.graph:
        ops[node.op_type] = ops.get(node.op_type, 0) + 1
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
        "made_by": made_by(),
        "origin": frozen.origin,
        "torch": torch.__version__,
        "layout": table.layout,
        "page_width": table.width if isinstance(table, Paged) else None,
        "bytes_dense": dense_bytes,
        "bytes_table": stored,
        "bytes_ratio": stored / dense_bytes,
        "fields": fields,
        "ops": dict(sorted(ops.items())),
        "parity_on_samples": parity,
    }
