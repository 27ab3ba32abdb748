"""`export`: lay out, trace, lower, write, check; the bundle appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import Checked, Trial, check_valid, raise_problems
from amtl_export.bundle.contents import Built, count_ops, report_of, signature_of, write_fields
from amtl_export.bundle.reference import reference_of
from amtl_export.bundle.samples import readme, write_samples
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import atomic_folder, producer, write_json, write_sums
from amtl_export.freezing.changed import changed_since
from amtl_export.freezing.folder import refuse_sources
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.swap import passed_over
from amtl_export.graph.inputs import graph_inputs
from amtl_export.graph.lookups import IdPolicy
from amtl_export.graph.pipeline import lower
from amtl_export.graph.quantized_linear import quantizable
from amtl_export.graph.trace import LIMITS, trace
from amtl_export.native import DOMAIN, needed_library
from amtl_export.runtime.session import onnxruntime
from amtl_export.stages import stage
from amtl_export.tables.layout import stored_bytes
from amtl_export.tables.plan import PlanConfig, TablePlan, for_model, lay_out_all, plan
from amtl_export.tables.values import quantize

#: Version of the metadata keys and of signature.json.
SCHEMA_VERSION = "2"

#: Of weights, and how many bytes one has at least that is in there.
DATA, EXTERNAL_ABOVE = "model.onnx.data", 128


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
        InputError: `out` exists or holds what is read, layout or request fields do not fit, the model cannot be traced,
            or its module changed after it was frozen.
        ValidationFailed: the written graph does not answer as PyTorch does.
        EnvironmentLacks: ONNX Runtime or the native library is missing; no disk space; no permission.
    """
    onnxruntime()
    config = config or ExportConfig()
    if config.target == "native":
        needed_library()
    frozen = freeze(frozen)
    refuse_sources(frozen, Path(out))
    with atomic_folder(Path(out), overwrite=overwrite) as draft:
        built = build(frozen, config)
        stage("writing the graph and its weights")
        write_model(built.model, draft)
        stage("comparing the graph with PyTorch")
        check_valid(draft / "model.onnx")
        reference = reference_of(frozen, built.stored, built.model)
        trial = Trial(draft / "model.onnx", reference, built.inputs, built.tolerance, limits=built.limits)
        checked = _passed(trial, frozen, guarded=built.config.id_policy == "guard")
        signature = signature_of(built, checked)
        stage("writing vocabularies and samples")
        write_json(draft / "signature.json", signature.model_dump(mode="json"))
        write_fields(frozen, draft)
        write_samples(draft, frozen, built.inputs, trial.session(optimized=True))
        write_json(draft / "report.json", report_of(built, checked))
        (draft / "README.md").write_text(readme(frozen, signature), encoding="utf-8")
        stage("taking checksums")
        write_sums(draft)
    return open_bundle(out)


def _passed(trial: Trial, frozen: FrozenModel, *, guarded: bool) -> Checked:
    """What was tried, all of it right."""
    try:
        checked = trial.check(frozen.example, guarded=guarded)
        raise_problems(checked.problems)
    except ValidationFailed as error:
        if changed := changed_since(frozen):
            raise InputError("the module changed after freeze", where=changed, fix="freeze it again") from error
        raise
    return checked


def build(frozen: FrozenModel, config: ExportConfig) -> Built:
    """The graph and its arrays, in memory: what is in a bundle before anything of it is tried.

    It follows from the model, the settings and the versions of the exporter alone, so `validate` makes it anew.

    Raises:
        InputError: layout or request fields do not fit, the model reads no table or cannot be traced.
    """
    config = for_model(config, frozen)
    if not frozen.tables:
        raise InputError(
            "the model reads no embedding table that can be frozen",
            where=frozen.origin["backbone"],
            found=_no_tables(frozen),
            allowed="nn.Embedding and nn.EmbeddingBag without max_norm, a computed weight or the mode max",
            fix="is it the right module? Of a parameter that ids index, nn.Embedding.from_pretrained makes a table",
        )
    inputs = graph_inputs(frozen.inputs, config.request_fields)
    stage("planning how rows lie")
    plans = plan(frozen, config)
    stage("laying out the tables")
    stored = quantize(frozen, {path: table.dtype for path, table in plans.items()})
    tables = lay_out_all(frozen, stored, plans)
    stage("tracing the model")
    model = trace(frozen, inputs)
    stage("rewriting the graph")
    traced = count_ops(model)
    shared = [spec.name for spec in inputs if spec.shared]
    limits, table_bytes = dict(model.meta[LIMITS]), sum(map(stored_bytes, tables.values()))
    most = limits if frozen.data is None else frozen.data.most_values | limits
    lookups = lower(model, plans, tables, config, shared, quantizable(frozen.module.model), most)
    _describe(model, frozen, config, plans)
    return Built(frozen, config, inputs, plans, stored, table_bytes, model, tuple(lookups), limits, traced)


def _no_tables(frozen: FrozenModel) -> str:
    """What a model has in place of tables that it reads."""
    kept = passed_over((frozen.trained or frozen.module).model)
    kept |= dict.fromkeys(frozen.unread, "not read")
    return "; ".join(f"{path}: {why}" for path, why in kept.items()) or "no nn.Embedding"


def write_model(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx.data`, ready to be mapped.

    What was written is read from the file from then on, so that its memory is free.
    """
    ir.save(model, folder / "model.onnx", external_data=DATA, size_threshold_bytes=EXTERNAL_ABOVE)
    if not (folder / DATA).is_file():
        raise InputError("the model has no weights worth a file", fix="is the backbone empty?")
    written = ir.load(folder / "model.onnx").graph.initializers
    for name, value in model.graph.initializers.items():
        value.const_value = written[name].const_value


def _describe(model: ir.Model, frozen: FrozenModel, config: ExportConfig, plans: Mapping[str, TablePlan]) -> None:
    """Fill in `metadata_props` and the graph's own names."""
    mark = producer()
    model.producer_name, model.producer_version = mark["tool"], mark["version"]
    model.graph.name = "amtl_export"
    operators = sorted(name for domain, name, _ in model.functions if domain == DOMAIN)
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
            "amtl.operators": ",".join(operators),  # those that the native library computes
        }
    )
