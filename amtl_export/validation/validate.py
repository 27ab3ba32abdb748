"""`validate`: a verdict on a bundle, with the reason for every failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.check import Checked, Trial
from amtl_export.bundle.contents import onnxruntime_version, signature_of
from amtl_export.bundle.reference import reference_of
from amtl_export.bundle.samples import read_test_data
from amtl_export.compare import compare
from amtl_export.data.schema import SplitName
from amtl_export.errors import InputError, ValidationFailed
from amtl_export.files import checksum_mismatches
from amtl_export.freezing.changed import changed_since
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.graph.inputs import as_request, one_request
from amtl_export.native import library_path
from amtl_export.runtime.apart import run_apart
from amtl_export.runtime.session import Provider, nodes_by_provider, open_session, run
from amtl_export.source.binding import bind, nested, same_structure
from amtl_export.source.call import ModuleCall
from amtl_export.source.source import Source
from amtl_export.spec import BATCH, Feed, mismatch
from amtl_export.stages import stage
from amtl_export.training.run import Run
from amtl_export.validation.as_exported import Rebuilt, drawn_feeds, rebuild, strangers
from amtl_export.validation.judged import ScoreCheck
from amtl_export.validation.layers import check_layers
from amtl_export.validation.provenance import trace_provenance
from amtl_export.validation.raw_rows import check_source
from amtl_export.validation.rows import check_rows, table_bytes
from amtl_export.validation.same_files import SameFiles, one_line
from amtl_export.validation.same_model import another_model, other_vocabularies
from amtl_export.validation.verdict import Tolerances, Verdict

#: What is wrong where a module is not called as it takes its inputs.
_OF_A_CALL = ("the example does not fit forward", "the model fails on its example")

#: Differences that are listed of a graph.
_MOST = 10


def validate(
    bundle: Path | str,
    source: FrozenModel | Run | Source | nn.Module | Path | str,
    inputs: Any = None,
    *,
    split: SplitName = "test",
    provider: Provider = "cpu",
    tolerances: Tolerances | None = None,
) -> Verdict:
    """Compare a bundle with the model that it says it came from: it passes if `export` would write it, and it is right.

    Checks, in order: checksums; vocabularies; the graph, made anew from the source with the settings that the bundle
    states, node by node and number by number; nothing of the selection network left and every weight accounted for;
    raw values of a run, to the ids that training gave them; every row of every table bit for bit and ids outside them,
    optimised and not; answers to `inputs`, batches of none and of one, examples alone, and ids outside the tables
    through the whole model; every other file; the labelled examples' scores, optimised and not. The reference is the
    model itself, in evaluation mode, hooks and all; where values are quantized, the frozen model with the same
    quantized values. A graph that export does not write is not run.

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
    verdict = check.run(inputs)
    if verdict.problems and isinstance(source, FrozenModel) and (changed := changed_since(source)):
        verdict.problems.insert(0, f"the module changed after freeze, freeze it again: {changed}")
    return verdict


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
        pass
    try:
        return freeze(source, example=example, outputs=names)  # of another shape: that is said by the check of inputs
    except InputError as error:
        nested_inputs = example is not given and any(len(spec.path) > 1 for spec in bundle.inputs)
        if not nested_inputs or error.what not in _OF_A_CALL:
            raise
        raise InputError(
            "the module cannot be called with inputs by their names",
            where=type(source).__name__,
            found=error.found if error.found is not None else error.what,
            fix="give `inputs` as forward takes them: a bundle does not keep the classes that hold its inputs",
        ) from error


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


@dataclass
class _Check:
    """One validation; what export makes of the source, and what trying the bundle came to, once they are there."""

    bundle: Bundle
    frozen: FrozenModel
    split: SplitName
    provider: Provider
    tolerances: Tolerances
    verdict: Verdict
    rebuilt: Rebuilt | None = None
    checked: Checked | None = None

    def run(self, inputs: Any) -> Verdict:
        """Every check; one that fails does not keep the others from running."""
        if other := another_model(self.bundle, self.frozen):
            self.verdict.problems.append(other)
            return self.verdict
        try:
            self._check_inputs(inputs)
        except (ValidationFailed, InputError) as error:
            self.verdict.problems.append(one_line(error))
            return self.verdict
        self._try("checksums", self._files)
        self._try("vocabularies", lambda: self.verdict.problems.extend(other_vocabularies(self.bundle, self.frozen)))
        self._try("making the graph anew", self._graph)
        self._try("where every weight comes from", self._provenance)
        if self._may_run():
            self._try("raw values", self._raw_values)
            self._try("every row of every table", self._rows)
            self._try("layers in int8", self._layers)
            self._try("answers to examples, alone and together", lambda: self._answers(inputs))
            self._try("answers to drawn inputs", self._drawn)
            self._try("every other file", lambda: self._contents(inputs))
            self._try(f"scores of the {self.split} split", self._scores)
        else:
            self.verdict.notes.append("the graph was not run: it is none that export writes")
            self._try("every other file", lambda: self._contents(inputs))
        return self.verdict

    def _try(self, what: str, step: Callable[[], None]) -> None:
        stage(f"checking {what}")
        try:
            step()
        except (ValidationFailed, InputError) as error:
            self.verdict.problems.append(one_line(error))

    def _graph(self) -> None:
        """The graph that export makes of the source, held against the bundle's."""
        verdict = self.verdict
        self.rebuilt = rebuilt = rebuild(self.bundle, self.frozen)
        if rebuilt.same or not rebuilt.exporter:
            verdict.proof = "rebuilt"
            own = self.bundle.signature
            tried = Checked(batches=own.batches, out_of_range=own.out_of_range)
            # What the source says of the graph; where the bundle says otherwise, its files are told of.
            self.bundle = replace(self.bundle, signature=signature_of(rebuilt.built, tried))
            lines = [*rebuilt.graph.structure, *rebuilt.graph.numbers]
            verdict.problems += [f"not the graph that export writes: {line}" for line in lines]
            return
        verdict.proof = "answers"
        stated = ", ".join(f"{name} {number}" for name, number in rebuilt.exporter.items())
        verdict.notes.append(
            f"the bundle states another exporter ({stated}), whose graphs need not be these: nodes were not "
            "compared; every number was, and the answers to drawn inputs"
        )
        verdict.problems += list(itertools.islice(strangers(self.bundle, rebuilt), _MOST))

    def _may_run(self) -> bool:
        """Whether the graph is run here; one that may do anything is tried in a process of its own first."""
        if self.rebuilt is None or not self.rebuilt.may_run:
            return False
        if self.rebuilt.same:
            return True
        request = as_request(one_request(self.frozen.example, self.bundle.inputs), self.bundle.inputs)
        answer = run_apart(self.bundle.model, {"example": request})["example"]
        if isinstance(answer, str) and (ended := "ends the process" in answer or "no answer" in answer):
            self.verdict.problems.append(f"the graph fails on an input: {answer}")
            return not ended
        return True

    def _contents(self, inputs: Any) -> None:
        """Every other file."""
        if self.rebuilt is None:
            return
        session = None if self.checked is None else open_session(self.bundle.model, provider=self.provider)
        here = self.bundle.report().get("onnxruntime") == onnxruntime_version()
        alike = inputs is None and self.frozen.data is not None and self.provider == "cpu" and here
        other = bool(self.rebuilt.exporter)
        files = SameFiles(self.bundle, self.rebuilt.built, self.checked, session, other, alike)
        self.verdict.problems += [f"not what export writes: {line}" for line in files.problems()]

    def _drawn(self) -> None:
        """Of another version's graph: what it answers to drawn inputs, every output."""
        if self.verdict.proof != "answers":
            return
        session, names = open_session(self.bundle.model, provider=self.provider), list(self.frozen.outputs)
        for number, feed in enumerate(drawn_feeds(self.frozen)):
            rows = one_request(feed, self.bundle.inputs)
            found = run(session, names, as_request(rows, self.bundle.inputs), where=self.bundle.path)
            for difference in compare(self._reference.trained_answers(rows), found):
                if not difference.relative <= self._tolerance:
                    self.verdict.problems.append(f"drawn inputs, batch {number}: {difference}")

    def _files(self) -> None:
        if wrong := checksum_mismatches(self.bundle.path):
            self.verdict.problems.append(f"files differ from SHA256SUMS: {', '.join(wrong)}")

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
        """The source with the numbers that export writes where they are quantized."""
        assert self.rebuilt is not None
        return reference_of(self.frozen, self.rebuilt.built.stored, self.rebuilt.built.model)

    @property
    def _tolerance(self) -> float:
        """What answers may differ."""
        assert self.rebuilt is not None
        return self.rebuilt.built.tolerance if self.tolerances.logit_atol is None else self.tolerances.logit_atol

    def _layers(self) -> None:
        """Layers in int8, each on what the graph gives it."""
        request = as_request(one_request(self.frozen.example, self.bundle.inputs), self.bundle.inputs)
        for optimized in (True, False):
            found = check_layers(self.bundle, self._reference, request, self.provider, optimized=optimized)
            if found.layers and (optimized or found.wrong):
                self.verdict.layers_checked, self.verdict.layers_bit_equal = found.layers, found.equal
            level = "optimised" if optimized else "not optimised"
            self.verdict.problems += [f"{line} ({level})" for line in found.wrong]

    def _rows(self) -> None:
        verdict, frozen = self.verdict, self.frozen
        verdict.bytes_dense = frozen.dense_bytes
        verdict.bytes_table = table_bytes(self.bundle, frozen)
        verdict.bytes_ratio = verdict.bytes_table / frozen.dense_bytes
        reference = self._reference
        for optimized in (True, False):
            try:
                found = check_rows(self.bundle, reference, self.provider, optimized=optimized)
            except (ValueError, IndexError, KeyError) as error:  # of another exporter's signature
                raise InputError("the lookups of signature.json are none of the graph's", found=error) from None
            if optimized or found.wrong:
                verdict.rows_checked, verdict.rows_bit_equal = found.rows, found.equal
                verdict.hostile_ids_checked = found.out_of_range
            level = "optimised" if optimized else "not optimised"
            verdict.problems += [f"wrong row ({level}): {line}" for line in found.wrong]

    def _check_inputs(self, inputs: Any) -> None:
        if wrong := mismatch(self._feed(inputs), self._specs):
            raise ValidationFailed(
                "the inputs are not those that the bundle takes",
                found=wrong,
                fix="freeze(…, dynamic_shapes=…) lets more dimensions change",
            )

    def _answers(self, inputs: Any) -> None:
        """The model's answers to some inputs, and what is tried around them."""
        verdict, signature = self.verdict, self.bundle.signature
        trial = Trial(
            self.bundle.model,
            self._reference,
            self.bundle.inputs,
            self._tolerance,
            self.provider,
            signature.limits,
        )
        self.checked = checked = trial.check(self._feed(inputs), guarded=signature.id_policy == "guard")
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
        allowed = replace(self.tolerances, logit_atol=self._tolerance)
        ScoreCheck(self.bundle, frozen, self._reference, self.split, self.provider, allowed, verdict).run()

    def _say_unscored(self) -> None:
        if self.frozen.compressed is not None and self.frozen.compressed.original is None:
            self.verdict.notes.append("no AUC: the model that was compressed is not where it was")
        else:
            self.verdict.notes.append("no AUC: the model comes without labelled examples")
