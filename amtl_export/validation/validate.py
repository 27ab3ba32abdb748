"""`validate`: a verdict on a bundle, with the reason for every failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import Trial
from amtl_export.bundle.reference import reference_of
from amtl_export.bundle.samples import read_test_data
from amtl_export.data.schema import SplitName
from amtl_export.errors import AmtlError, InputError, ValidationFailed
from amtl_export.files import checksum_mismatches
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.weights import Part
from amtl_export.native import library_path
from amtl_export.runtime.session import Provider, nodes_by_provider, open_session
from amtl_export.source.binding import bind, nested, same_structure
from amtl_export.source.call import ModuleCall
from amtl_export.source.source import Source
from amtl_export.spec import BATCH, Feed, mismatch
from amtl_export.tables.values import quantize
from amtl_export.training.run import Run
from amtl_export.validation.judged import ScoreCheck
from amtl_export.validation.provenance import load_graph, trace_provenance, unknown_bases
from amtl_export.validation.raw_rows import check_source
from amtl_export.validation.rows import check_rows, table_bytes
from amtl_export.validation.verdict import Tolerances, Verdict


def validate(
    bundle: Path | str,
    source: FrozenModel | Run | Source | nn.Module | Path | str,
    inputs: Any = None,
    *,
    split: SplitName = "test",
    provider: Provider = "cpu",
    tolerances: Tolerances | None = None,
) -> Verdict:
    """Compare a bundle with the model that it says it came from.

    Checks, in order: checksums; vocabularies; raw values of a run, to the ids that training gave them; nothing of the
    selection network left and every weight accounted for; every row of every table bit for bit and ids outside them,
    optimised and not; answers to `inputs`, batches of none and of one, examples alone, and ids outside the tables
    through the whole model; the labelled examples' scores, optimised and not. The reference is the model itself, in
    evaluation mode, hooks and all; where values are quantized, the frozen model with the same quantized values.

    Args:
        bundle: its folder.
        source: the model: a run or its folder, any `nn.Module`, a `Source`, `my_model.py:build`.
        inputs: of a module, as in `freeze`'s example; of a run, arrays by input. At least two rows.
            None takes the bundle's own samples, or the run's own example.
        split: whose labelled examples are scored; a run keeps `valid` and `test`.
        provider: where the graph runs.
        tolerances: what may differ.

    Raises:
        InputError: bundle or source cannot be opened.
        EnvironmentLacks: ONNX Runtime or the provider is missing.
    """
    opened = open_bundle(bundle)
    frozen = _frozen(opened, source, inputs)
    check = _Check(
        opened,
        frozen,
        split,
        provider,
        tolerances or Tolerances(),
        Verdict(bundle=str(bundle), run=str(frozen.origin["run"]), split=split),
    )
    if isinstance(source, (str, Path)):
        check.verdict.run = str(source)
    return check.run(inputs)


def _frozen(bundle: Bundle, source: Any, inputs: Any) -> FrozenModel:
    """The source frozen; a bare module is called with the inputs, or with the bundle's samples."""
    if not isinstance(source, nn.Module):
        return freeze(source)
    whole = {spec.source: (BATCH, *spec.shape[1:]) if spec.shared else spec.shape for spec in bundle.inputs}
    shapes = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)} for name, shape in whole.items()
    }
    names = [spec.name for spec in bundle.signature.outputs]
    given = read_test_data(bundle.path, "input") if inputs is None else inputs
    example = _by_path(bundle, given)
    try:
        return freeze(source, example=example, outputs=names, dynamic_shapes=shapes)
    except InputError:
        return freeze(source, example=example, outputs=names)  # of another shape: that is said by the check of inputs


def _by_path(bundle: Bundle, inputs: Any) -> Any:
    """Inputs as forward takes them; those that are named as the graph names them are put in their places."""
    if not isinstance(inputs, dict) or set(inputs) != {spec.name for spec in bundle.inputs}:
        return inputs
    rows = next((len(inputs[spec.name]) for spec in bundle.inputs if spec.batched), 1)
    repeated = {
        spec.name: np.repeat(inputs[spec.name], rows, axis=0)
        for spec in bundle.inputs
        if spec.shared and len(inputs[spec.name]) == 1
    }
    return nested(inputs | repeated, bundle.inputs)


@dataclass(frozen=True)
class _Check:
    """One validation."""

    bundle: Bundle
    frozen: FrozenModel
    split: SplitName
    provider: Provider
    tolerances: Tolerances
    verdict: Verdict

    def run(self, inputs: Any) -> Verdict:
        """Every check; one that fails does not keep the others from running."""
        if not self._same_model() or not self._same_bases():
            return self.verdict
        steps: tuple[Callable[[], None], ...] = (
            self._files,
            self._vocabularies,
            self._raw_values,
            self._provenance,
            self._rows,
            lambda: self._answers(inputs),
            self._scores,
        )
        for step in steps:
            try:
                step()
            except (ValidationFailed, InputError) as error:
                self.verdict.problems.append(_one_line(error))
        return self.verdict

    def _files(self) -> None:
        if wrong := checksum_mismatches(self.bundle.path):
            self.verdict.problems.append(f"files differ from SHA256SUMS: {', '.join(wrong)}")

    def _same_model(self) -> bool:
        """Whether the bundle has the source's inputs, outputs, fields, sizes and D, so that comparing makes sense."""
        signature, frozen = self.bundle.signature, self.frozen
        for what, has, wanted in (
            ("inputs", {spec.source for spec in signature.inputs}, {spec.name for spec in frozen.inputs}),
            ("outputs", {spec.name for spec in signature.outputs}, set(frozen.outputs)),
        ):
            if has != wanted:
                self.verdict.problems.append(
                    f"the bundle is of another model: {what} {sorted(has)}, the source has {sorted(wanted)}"
                )
                return False
        theirs = {own.name: own.size for own in self.bundle.signature.fields}
        ours = {own.name: own.size for own in self.frozen.fields if own.table in self.frozen.tables}
        dims = self.bundle.signature.dim, self.frozen.table.rows.shape[1]
        if list(theirs) != list(ours) or dims[0] != dims[1]:
            self.verdict.problems.append(
                f"the bundle is of another model: fields {list(theirs)} with D={dims[0]}, "
                f"the source has {list(ours)} with D={dims[1]}; a compressed model's bundle is held against that model"
            )
            return False
        if theirs != ours:
            self.verdict.problems.append(
                f"another run's vocabulary: its fields have {list(theirs.values())} ids, the source's "
                f"{list(ours.values())}; vocabulary hash {self.bundle.signature.vocabulary_hash}, the source's "
                f"{self.frozen.vocabulary_hash}"
            )
            return False
        return True

    def _same_bases(self) -> bool:
        """Whether the source has the bases that are folded into the bundle's weights."""
        try:
            values = load_graph(self.bundle.model).graph.initializers.values()
        except ValidationFailed:
            return True  # said by the checks of files and weights
        parts = [part for value in values if (part := Part.described(value))]
        missing = {name for part in parts for name in unknown_bases(part, self.frozen.projections)}
        if missing:
            self.verdict.problems.append(
                f"the bundle is of a compressed model: the source has no {', '.join(sorted(missing))}; "
                "give the model that it was exported from"
            )
        return not missing

    def _vocabularies(self) -> None:
        if self.frozen.data is None:
            return
        expected, problems = self.frozen.vocabulary_hash, self.verdict.problems
        found, ours = self.bundle.vocabularies(), self.frozen.data.vocabularies
        differing = [name for name in self.bundle.fields if found[name].digest != ours[name].digest]
        if differing:
            problems.append(
                f"another run's vocabulary: field(s) {', '.join(differing)} map values to other ids than the run does"
            )
        stated = {entry.key: entry.value for entry in self.bundle.proto().metadata_props}.get("amtl.vocabulary_hash")
        for where, value in (("model.onnx", stated), ("signature.json", self.bundle.signature.vocabulary_hash)):
            if value != expected:
                problems.append(f"{where} states the vocabulary hash {value}, the run's is {expected}")

    def _raw_values(self) -> None:
        """The run's raw rows, and hostile values, to ids in every way that a request may take."""
        if self.frozen.data is None:
            return
        if self.frozen.raw is None or (kept := self.frozen.raw()) is None:
            self.verdict.notes.append("raw values were not checked: the source keeps no raw rows; train it anew")
            return
        found = check_source(self.bundle, *kept)
        self.verdict.raw_rows_checked, self.verdict.raw_rows_equal = found.rows, found.equal
        self.verdict.problems += [f"raw value of field {line}" for line in found.problems]
        self.verdict.notes += found.notes

    def _provenance(self) -> None:
        found = trace_provenance(self.bundle.model, self.frozen)
        self.verdict.selector_nodes = len(found.selector_nodes)
        self.verdict.selector_initializers = len(found.selector_initializers)
        for what, names in (
            ("nodes of the selection network are left", found.selector_nodes),
            ("parameters of the selection network are left", found.selector_initializers),
            ("weights that neither table nor backbone explains", found.unexplained),
            ("backbone parameters differ from the run's", found.changed),
            ("backbone parameters are missing", found.missing),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                self.verdict.problems.append(f"{what}: {', '.join(names[:3])}{more}")

    @cached_property
    def _reference(self) -> FrozenModel:
        """The source with the bundle's numbers where they are quantized."""
        dtypes = {path: table.dtype for path, table in self.bundle.signature.tables.items()}
        return reference_of(self.frozen, quantize(self.frozen, dtypes), load_graph(self.bundle.model))

    def _rows(self) -> None:
        verdict, frozen = self.verdict, self.frozen
        for name in self.bundle.fields:
            if not np.array_equal(self.bundle.dims(name), frozen.field_dims(name).numpy()):
                verdict.problems.append(f"the dims in vocab/{name}.parquet are not the source's")
        verdict.bytes_dense = frozen.dense_bytes
        verdict.bytes_table = table_bytes(self.bundle, frozen)
        verdict.bytes_ratio = verdict.bytes_table / frozen.dense_bytes
        reference = self._reference
        for optimized in (True, False):
            found = check_rows(self.bundle, reference, self.provider, optimized=optimized)
            if optimized or found.wrong:
                verdict.rows_checked, verdict.rows_bit_equal = found.rows, found.equal
                verdict.hostile_ids_checked = found.out_of_range
            level = "optimised" if optimized else "not optimised"
            verdict.problems += [f"wrong row ({level}): {line}" for line in found.wrong]

    def _answers(self, inputs: Any) -> None:
        """The model's answers to some inputs, and what is tried around them."""
        verdict, signature = self.verdict, self.bundle.signature
        feed = self._feed(inputs)
        if wrong := mismatch(feed, self._specs):
            raise ValidationFailed(
                "the inputs are not those that the bundle takes",
                found=wrong,
                fix="freeze(…, dynamic_shapes=…) lets more dimensions change",
            )
        trial = Trial(
            self.bundle.model,
            self._reference,
            self.bundle.inputs,
            self.tolerances.logit_atol,
            self.provider,
            signature.limits,
        )
        checked = trial.check(feed, guarded=signature.id_policy == "guard")
        verdict.problems += [f"the graph answers differently from PyTorch: {line}" for line in checked.problems]
        verdict.unoptimized = checked.unoptimized
        verdict.batch_of_none, verdict.batch_of_one = checked.batches.none, checked.batches.single
        verdict.examples_independent, verdict.out_of_range = checked.batches.independent, checked.out_of_range
        verdict.hostile_ids_checked = (verdict.hostile_ids_checked or 0) + checked.ids_tried
        verdict.max_relative_diff = verdict.minimum_logit_atol = checked.largest
        verdict.max_abs_logit_diff = checked.absolute
        if signature.batches.independent and not checked.batches.independent:
            verdict.problems.append(
                "examples together are not answered as each alone, and the bundle says that they are"
            )

    @property
    def _specs(self) -> Any:
        """The model's inputs, with the dimensions that the bundle lets change."""
        stated = {spec.source: spec for spec in self.bundle.inputs if not spec.positions}
        return tuple(
            replace(spec, shape=stated[spec.name].shape)
            if spec.name in stated and not stated[spec.name].request
            else spec
            for spec in self.frozen.inputs
        )

    def _feed(self, inputs: Any) -> Feed:
        if inputs is None:
            return self.frozen.example
        model = self.frozen.trained or self.frozen.module
        if isinstance(model.call, ModuleCall):
            return same_structure(bind(model.model, _by_path(self.bundle, inputs)).feed, self.frozen.inputs)
        if not isinstance(inputs, Mapping):
            raise InputError("inputs of a run", found=type(inputs).__name__, allowed="a mapping of names to arrays")
        return same_structure({name: np.asarray(values) for name, values in inputs.items()}, self.frozen.inputs)

    def _scores(self) -> None:
        """The labelled examples, whole split, optimised and not."""
        verdict, frozen = self.verdict, self.frozen
        session = open_session(self.bundle.model, provider=self.provider, record_assignment=True)
        verdict.providers = list(session.get_providers())
        verdict.native_operator = library_path(self.provider) is not None
        verdict.nodes_by_provider = nodes_by_provider(session)
        if frozen.labelled is None:
            self._say_unscored()
            return
        ScoreCheck(self.bundle, frozen, self._reference, self.split, self.provider, self.tolerances, verdict).run()

    def _say_unscored(self) -> None:
        if self.frozen.compressed is not None and self.frozen.compressed.original is None:
            self.verdict.notes.append("no AUC: the model that was compressed is not where it was")


def _one_line(error: AmtlError) -> str:
    return " ".join(str(error).split())
