"""`validate`: a verdict on a bundle, with the reason for every failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.export import fake_quantized
from amtl_export.data.schema import SplitName
from amtl_export.errors import AmtlError, InputError, ValidationFailed
from amtl_export.files import checksum_mismatches
from amtl_export.freezing.frozen import EMBEDDING, FrozenModel, freeze
from amtl_export.native import library_path
from amtl_export.runtime.session import Provider, nodes_by_provider, open_session
from amtl_export.training.batches import predict
from amtl_export.training.run import Run, load_run
from amtl_export.validation.provenance import trace_provenance
from amtl_export.validation.rows import check_rows
from amtl_export.validation.scores import Scores, graph_scores, rank_flips


@dataclass(frozen=True)
class Tolerances:
    """What may differ.

    Attributes:
        auc_atol: |AUC difference| to the run; None for the value type's own, see `auc_for`.
        logit_atol: |logit difference|, any example; in fp16 and int8 to the run's model with its tables fake-quantized.
    """

    auc_atol: float | None = None
    logit_atol: float = 1e-4

    def auc_for(self, dtype: str) -> float:
        """What is allowed for a value type: 1e-6, or 1e-4 for a lossy one, unless it is given."""
        return (1e-6 if dtype == "fp32" else 1e-4) if self.auc_atol is None else self.auc_atol


@dataclass
class Verdict:
    """The outcome; `to_json` is the form that tools outside the project read.

    Attributes:
        problems: why it failed, a sentence each; empty means pass.
        numbers: the measured values.
    """

    bundle: str
    run: str
    split: str
    problems: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """pass or fail."""
        return "fail" if self.problems else "pass"

    def to_json(self) -> dict[str, Any]:
        """JSON values; a number that could not be had is null."""
        numbers = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in self.numbers.items()
        }
        where = {"bundle": self.bundle, "run": self.run, "split": self.split}
        return {"verdict": self.verdict, **where, **_EMPTY, **numbers, "problems": self.problems}


#: Every key of the contract, for verdicts that failed before a number could be had.
_EMPTY: dict[str, Any] = dict.fromkeys(
    (
        "auc_torch", "auc_onnx", "abs_delta_auc", "logloss_torch", "logloss_onnx", "max_abs_logit_diff",
        "rows_checked", "rows_bit_equal", "rank_flips", "selector_nodes", "selector_initializers",
        "bytes_dense", "bytes_table", "bytes_ratio", "providers", "nodes_by_provider", "hostile_ids_checked",
    )
)  # fmt: skip


def validate(
    bundle: Path,
    run: Path,
    *,
    split: SplitName = "test",
    provider: Provider = "cpu",
    tolerances: Tolerances | None = None,
) -> Verdict:
    """Compare a bundle with the run that it says it came from.

    Checks, in order: checksums; vocabularies; nothing of the selection network left and every weight
    accounted for; every row of every field bit for bit and out-of-range ids, optimised and not; the
    split's scores, optimised and not. In fp16 and int8 rows are compared with the run's
    fake-quantized rows.

    Args:
        bundle: its folder.
        run: the run's folder.
        split: whose rows are scored; a run keeps `valid` and `test`.
        provider: where the graph runs.
        tolerances: what may differ.

    Raises:
        InputError: bundle or run cannot be opened.
        EnvironmentLacks: ONNX Runtime or the provider is missing.
    """
    tolerances = tolerances or Tolerances()
    opened, trained = open_bundle(bundle), load_run(run)
    frozen = freeze(trained)
    reference = fake_quantized(frozen, opened.signature.dtype, _initializers(opened))
    verdict = Verdict(str(bundle), str(run), split)
    steps: tuple[Callable[[], None], ...] = (
        lambda: _check_files(opened, verdict),
        lambda: _check_vocabularies(opened, trained, verdict),
        lambda: _check_provenance(opened, trained, frozen, verdict),
        lambda: _check_rows(opened, reference, provider, verdict),
        lambda: _check_scores(opened, trained, reference, split, provider, tolerances, verdict),
    )
    if _same_model(opened, trained, verdict):
        for step in steps:
            try:
                step()
            except (ValidationFailed, InputError) as error:
                verdict.problems.append(_one_line(error))
    return verdict


def _initializers(bundle: Bundle) -> list[str]:
    """Names of the graph's; none if it cannot be read, which the checks say."""
    try:
        return [tensor.name for tensor in bundle.proto().graph.initializer]
    except (ValidationFailed, InputError):
        return []


def _one_line(error: AmtlError) -> str:
    return " ".join(str(error).split())


def _check_files(bundle: Bundle, verdict: Verdict) -> None:
    wrong = checksum_mismatches(bundle.path)
    if wrong:
        verdict.problems.append(f"files differ from SHA256SUMS: {', '.join(wrong)}")


def _same_model(bundle: Bundle, run: Run, verdict: Verdict) -> bool:
    """Whether the bundle has the run's fields, sizes and D, so that comparing rows makes sense."""
    fields = [f.name for f in run.model_config.embedded]
    if bundle.fields != fields or bundle.signature.dim != run.model_config.dim:
        verdict.problems.append(
            f"the bundle is of another model: fields {bundle.fields} with D={bundle.signature.dim}, "
            f"the run has {fields} with D={run.model_config.dim}"
        )
        return False
    sizes = bundle.sizes
    if sizes != list(run.model.method.sizes):
        verdict.problems.append(
            f"another run's vocabulary: its fields have {sizes} ids, the run's {list(run.model.method.sizes)}; "
            f"vocabulary hash {bundle.signature.vocabulary_hash}, the run's {run.vocabulary_hash}"
        )
        return False
    return True


def _check_vocabularies(bundle: Bundle, run: Run, verdict: Verdict) -> None:
    vocabularies = bundle.vocabularies()
    differing = [name for name in bundle.fields if vocabularies[name].digest != run.vocabularies[name].digest]
    if differing:
        verdict.problems.append(
            f"another run's vocabulary: field(s) {', '.join(differing)} map values to other ids than the run does"
        )
    stated = {entry.key: entry.value for entry in bundle.proto().metadata_props}.get("amtl.vocabulary_hash")
    for where, value in (("model.onnx", stated), ("signature.json", bundle.signature.vocabulary_hash)):
        if value != run.vocabulary_hash:
            verdict.problems.append(f"{where} states the vocabulary hash {value}, the run's is {run.vocabulary_hash}")


def _check_provenance(bundle: Bundle, run: Run, frozen: FrozenModel, verdict: Verdict) -> None:
    provenance = trace_provenance(bundle.model, run.model, frozen.module)
    verdict.numbers["selector_nodes"] = len(provenance.selector_nodes)
    verdict.numbers["selector_initializers"] = len(provenance.selector_initializers)
    for what, names in (
        ("nodes of the selection network are left", provenance.selector_nodes),
        ("parameters of the selection network are left", provenance.selector_initializers),
        ("weights that neither table nor backbone explains", provenance.unexplained),
        ("backbone parameters differ from the run's", provenance.changed),
        ("backbone parameters are missing", provenance.missing),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            verdict.problems.append(f"{what}: {', '.join(names[:3])}{more}")


def _check_rows(bundle: Bundle, frozen: FrozenModel, provider: Provider, verdict: Verdict) -> None:
    for name in bundle.fields:
        if not np.array_equal(bundle.dims(name), frozen.field_dims(name).numpy()):
            verdict.problems.append(f"the dims in vocab/{name}.parquet are not the run's")
    numbers = verdict.numbers
    numbers["bytes_dense"] = frozen.dense_bytes
    numbers["bytes_table"] = _table_bytes(bundle)
    numbers["bytes_ratio"] = numbers["bytes_table"] / frozen.dense_bytes
    for optimized in (True, False):
        check = check_rows(bundle, frozen, provider, optimized=optimized)
        if optimized or check.wrong:
            numbers["rows_checked"], numbers["rows_bit_equal"] = check.rows, check.equal
            numbers["hostile_ids_checked"] = check.out_of_range
        level = "optimised" if optimized else "not optimised"
        verdict.problems += [f"wrong row ({level}): {line}" for line in check.wrong]


def _table_bytes(bundle: Bundle) -> int:
    """Bytes of the tables' arrays and projections, from the graph itself."""
    total = 0
    for tensor in bundle.proto().graph.initializer:
        if tensor.name.startswith(("table/", f"model.{EMBEDDING}.")):
            total += int(np.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return total


def _check_scores(
    bundle: Bundle,
    run: Run,
    reference: FrozenModel,
    split: SplitName,
    provider: Provider,
    tolerances: Tolerances,
    verdict: Verdict,
) -> None:
    rows = run.rows(split)
    expected = Scores.of(predict(run.model, rows), rows)
    lossy = bundle.signature.dtype != "fp32"
    logits = predict(reference.module, rows) if lossy else expected.logits
    allowed = tolerances.auc_for(bundle.signature.dtype)
    session = open_session(bundle.model, provider=provider, record_assignment=True)
    numbers = verdict.numbers
    numbers["providers"] = list(session.get_providers())
    numbers["native_operator"] = library_path(provider) is not None
    numbers["nodes_by_provider"] = nodes_by_provider(session)
    numbers["auc_torch"], numbers["logloss_torch"] = expected.auc, expected.logloss
    if lossy:
        numbers["max_abs_logit_change_by_quantization"] = float(np.abs(logits - expected.logits).max())
    worst = 0.0
    for optimized in (True, False):
        scores = graph_scores(bundle, rows, run.model_config, provider, optimized=optimized)
        difference = float(np.abs(scores.logits - logits).max())
        delta = abs(scores.auc - expected.auc)
        worst = max(worst, difference) if not math.isnan(difference) else difference
        if optimized:
            numbers["auc_onnx"], numbers["logloss_onnx"] = scores.auc, scores.logloss
            numbers["abs_delta_auc"] = delta
            numbers["rank_flips"] = rank_flips(expected.logits, scores.logits)
        level = "optimised" if optimized else "not optimised"
        if not delta <= allowed:
            verdict.problems.append(
                f"AUC differs by {delta:.3g} ({level}); allowed {allowed:.3g}; "
                f"auc_atol={delta * 1.01:.2g} would have passed"
            )
        if not difference <= tolerances.logit_atol:
            verdict.problems.append(
                f"a logit differs by {difference:.3g} ({level}); allowed {tolerances.logit_atol:.3g}; "
                f"logit_atol={difference * 1.01:.2g} would have passed"
            )
    numbers["max_abs_logit_diff"] = worst
    numbers["minimum_logit_atol"] = worst
    numbers["rows_scored"] = len(rows)
