"""The checks that a graph must pass before its bundle appears, and again when it is validated.

The reference is the model itself, as it was given: with its hooks, its subclasses and its selection networks. Where
values or weights are quantized it is the frozen model with the same quantized numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from amtl_export.bundle.signature import Batches
from amtl_export.compare import TOLERANCE, compare, scale_of
from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.inputs import as_request, one_request
from amtl_export.runtime.apart import run_apart
from amtl_export.runtime.session import Provider, first_line, open_session
from amtl_export.spec import BATCH, Feed, TensorSpec, batch_size, mismatch, resized, rows_of

#: The case of a batch of none.
_NONE = "no example"

#: Examples that are asked alone.
_ALONE = 3

#: Examples of a batch larger than any in an example, and the most that are tried.
_MANY, _MOST = 257, 4096

#: Whole numbers that have broken lookups and conversions before; sizes of tables come to these.
_OUTSIDE = (-1, (1 << 24) + 1, 1 << 31, (1 << 62) - 1, -(1 << 62))


@dataclass
class Checked:
    """What was tried.

    Attributes:
        parity: optimisation level → largest difference to PyTorch, relative to the scores.
        unoptimized: whether ONNX Runtime answers without its optimisations, or why not.
        batches: what happens to batches of no and of one example.
        out_of_range: input → how ids outside a table are taken.
        ids_tried: how many such ids.
        absolute: largest |difference| of the answers to the inputs.
        largest: difference of any answer, relative to the scores: a tolerance that would have passed.
        scales: output → the scale of its scores over all examples, which single ones are held against too.
        problems: what does not hold, a sentence each.
    """

    parity: dict[str, float] = field(default_factory=dict)
    unoptimized: str = "answered"
    batches: Batches = field(default_factory=Batches)
    out_of_range: dict[str, str] = field(default_factory=dict)
    ids_tried: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    scales: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check_valid(model: Path) -> None:
    """onnx's own full check.

    Raises:
        ValidationFailed: the graph is not valid ONNX.
    """
    try:
        onnx.checker.check_model(str(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValidationFailed("the exported graph is not valid ONNX", found=str(error).splitlines()[0]) from error


@dataclass(frozen=True)
class Trial:
    """A graph beside the model that it is held against.

    Attributes:
        model: the .onnx file.
        reference: the model, with the numbers that the graph has.
        inputs: of the graph.
        tolerance: see `validation.compare`.
        provider: where the graph runs; processes apart run on the CPU.
        limits: dimension → its largest size, where the model has one.
    """

    model: Path
    reference: FrozenModel
    inputs: tuple[TensorSpec, ...]
    tolerance: float = TOLERANCE
    provider: Provider = "cpu"
    limits: Mapping[str, int] = field(default_factory=dict)

    def session(self, *, optimized: bool) -> Any:
        """With native operators and all optimisations, or neither; on CUDA always with the operators."""
        native = None if optimized or self.provider == "cuda" else False
        return open_session(self.model, provider=self.provider, optimized=optimized, native=native)

    def check(self, example: Feed, *, guarded: bool) -> Checked:
        """Every check.

        Args:
            example: the model's inputs, at least two rows.
            guarded: whether ids outside the tables are answered.

        Raises:
            ValidationFailed: the inputs are not the model's, or the graph fails on them.
        """
        if wrong := mismatch(example, self.reference.inputs):
            raise ValidationFailed(
                "inputs do not fit the model", found=wrong, fix="dynamic_shapes names what may change"
            )
        rows = one_request(example, self.inputs)
        whole = self.reference.trained_answers(rows)
        checked = Checked(scales={name: scale_of(values) for name, values in whole.items()})
        self._apart(rows, checked, guarded=guarded)
        levels = (True,) if self.provider == "cpu" else (True, False)
        for optimized in levels:
            session, level = self.session(optimized=optimized), "optimized" if optimized else "plain"
            requests = {name: as_request(part, self.inputs) for name, part in self._parts(rows).items()}
            answers = {name: self._run(session, request) for name, request in requests.items()}
            self._hold(rows, answers, level, checked)
        return checked

    def _parts(self, rows: Feed) -> dict[str, Feed]:
        """All examples, and two of them."""
        every = {f"batch {batch_size(rows, self.reference.inputs)}": rows}
        return {"batch 2": rows_of(rows, self.reference.inputs, slice(2))} | every if self._sliceable else every

    def _hold(self, rows: Feed, answers: Mapping[str, Feed], level: str, checked: Checked) -> None:
        """Note the largest difference of the answers to all examples and to two, and each that is not allowed."""
        worst = 0.0
        for name, part in self._parts(rows).items():
            for difference in compare(self.reference.trained_answers(part), answers[name], checked.scales):
                worst = max(worst, difference.relative)
                checked.absolute = max(checked.absolute, difference.absolute)
                if not difference.relative <= self.tolerance:
                    checked.problems.append(
                        f"{name}, {level}: {difference}; allowed {self.tolerance:.3g} of {difference.scale:.3g}; "
                        f"logit_atol={difference.relative * 1.01:.2g} would have passed"
                    )
        checked.parity[level] = worst
        checked.largest = max(checked.largest, worst)

    def _run(self, session: Any, request: Feed) -> Feed:
        names = list(self.reference.outputs)
        try:
            return dict(zip(names, session.run(names, request), strict=True))
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise ValidationFailed("the graph fails on an input", found=first_line(error)) from error

    @property
    def _sliceable(self) -> bool:
        """Whether examples can be taken out of a batch: every input has them side by side, or is the same for all."""
        free = [size for spec in self.reference.inputs for size in spec.shape if isinstance(size, str)]
        return all(
            spec.batch_axis is not None or not any(isinstance(size, str) for size in spec.shape)
            for spec in self.reference.inputs
        ) and bool(free)

    def _apart(self, rows: Feed, checked: Checked, *, guarded: bool) -> None:
        """Batches of no and of one example, examples alone, and ids outside the tables, in a process of their own."""
        cases = self._batch_cases(rows) | self._size_cases(rows) | (self._outside_cases(rows) if guarded else {})
        asked = {name: as_request(feed, self.inputs) for name, feed in cases.items()}
        if _NONE in cases:  # a request has its own columns even if it has no candidate
            asked[_NONE] = rows_of(as_request(rows, self.inputs), self.inputs, slice(0))
        parts = {name: as_request(feed, self.inputs) for name, feed in self._parts(rows).items()}
        plain = {f"plain {name}": feed for name, feed in parts.items()} if self.provider == "cpu" else {}
        answers = run_apart(self.model, parts | asked, plain=plain)
        for name in parts:
            if isinstance(why := answers[name], str):
                raise ValidationFailed("the graph fails on an input", where=name, found=why)
        self._plain(rows, {name: answers[f"plain {name}"] for name in parts if plain}, checked)
        verdicts = {name: self._verdict(cases[name], _without_ties(name, answers[name]), checked) for name in cases}
        if self._sliceable:
            checked.batches = self._batches(rows, cases, answers, verdicts, checked)
        else:
            checked.batches = Batches(none="not tried", single="not tried", independent=False)
        for spec in self.reference.inputs:
            own = {n: v for n, v in verdicts.items() if n.startswith(f"{spec.name}=")}
            if own:
                checked.ids_tried += len(own)
                failed = sorted({verdict for verdict in own.values() if verdict != "answered"})
                checked.out_of_range[spec.name] = "; ".join(failed) or "guarded"
        wrong = {n: v for n, v in verdicts.items() if v.startswith("differs") and n != _NONE}
        wrong |= {n: v for n, v in verdicts.items() if v.startswith("ONNX Runtime") and "=" in n}
        if not checked.batches.independent:  # examples that hang together, offsets for one, cannot be repeated
            wrong = {name: verdict for name, verdict in wrong.items() if not name.startswith("size ")}
        checked.problems += [f"{name}: {verdict}" for name, verdict in wrong.items()]

    def _plain(self, rows: Feed, answers: Mapping[str, Feed | str], checked: Checked) -> None:
        """The graph without optimisations, which ONNX Runtime may not be able to run."""
        failed = sorted({answer for answer in answers.values() if isinstance(answer, str)})
        checked.unoptimized = "; ".join(failed) or "answered"
        if answers and not failed:
            given = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
            self._hold(rows, given, "plain", checked)

    def _batch_cases(self, rows: Feed) -> dict[str, Feed]:
        """No example, and single ones."""
        if not self._sliceable:
            return {}
        specs, total = self.reference.inputs, batch_size(rows, self.reference.inputs) or 0
        alone = {f"example {i}": rows_of(rows, specs, slice(i, i + 1)) for i in range(min(_ALONE, total))}
        return {_NONE: rows_of(rows, specs, slice(0))} | alone

    def _size_cases(self, rows: Feed) -> dict[str, Feed]:
        """More examples than there are, and one more than each limit of the model: does it branch on a size?"""
        if not self._sliceable:
            return {}
        specs = self.reference.inputs
        total = batch_size(rows, specs) or 1
        many = min(max(_MANY, 3 * total), self.limits.get(BATCH, _MOST), _MOST)
        past = {name: limit + 1 for name, limit in self.limits.items() if limit < _MOST}
        sizes = [(BATCH, many), *past.items()]
        return {f"size {name}={size}": resized(rows, specs, name, size) for name, size in sizes}

    def _outside_cases(self, rows: Feed) -> dict[str, Feed]:
        """For every input of whole numbers: its first example full of one number, which may be outside a table."""
        specs = self.reference.inputs
        few = rows_of(rows, specs, slice(4)) if self._sliceable else rows
        sizes = sorted({len(table.dims) for table in self.reference.tables.values()})[:4]
        cases = {}
        for spec in specs:
            if not spec.integer:
                continue
            limits = np.iinfo(spec.dtype)
            for number in (*_OUTSIDE, *sizes):
                if limits.min <= number <= limits.max:
                    values = few[spec.name].copy()
                    values[(0,) * (values.ndim > 0)] = number
                    cases[f"{spec.name}={number}"] = few | {spec.name: values}
        return {name: one_request(feed, self.inputs) for name, feed in cases.items()}

    def _verdict(self, feed: Feed, answered: Feed | str, checked: Checked) -> str:
        """`answered`, why not, or how the answer differs from PyTorch's."""
        reference = self.reference
        # A run's model takes an id outside its field for a row of the next field; what is meant is the guard's answer.
        models = [reference.answers] if reference.data else [reference.trained_answers, reference.answers]
        expected = _first_that_answers(models, feed)
        if isinstance(expected, str):
            return f"refused by PyTorch: {expected}"
        if isinstance(answered, str):
            return f"ONNX Runtime: {answered}"
        expected = {name: values for name, values in expected.items() if name in answered}
        shapes = {name: (values.shape, answered[name].shape) for name, values in expected.items()}
        flat = [{name: values.reshape(-1) for name, values in own.items()} for own in (expected, answered)]
        try:
            differences = compare(flat[0], flat[1], checked.scales)
        except ValidationFailed as error:
            return f"differs: {' '.join(str(error).split())}"
        checked.largest = max([checked.largest, *(d.relative for d in differences)])
        far = [d for d in differences if not d.relative <= self.tolerance]
        other = [f"{name} as {list(b)}, PyTorch as {list(a)}" for name, (a, b) in shapes.items() if a != b]
        return f"differs: {far[0]}" if far else f"answered: {'; '.join(other)}" if other else "answered"

    def _batches(
        self,
        rows: Feed,
        cases: dict[str, Feed],
        answers: dict[str, Feed | str],
        verdicts: dict[str, str],
        checked: Checked,
    ) -> Batches:
        alone = [name for name in cases if name.startswith("example ")]
        single = next((verdicts[name] for name in alone if verdicts[name] != "answered"), "answered")
        whole = self.reference.trained_answers(rows)
        two = self.reference.trained_answers(rows_of(rows, self.reference.inputs, slice(2)))
        parts: list[tuple[slice, Any]] = [(slice(2), two)]
        parts += [(slice(i, i + 1), answers[name]) for i, name in enumerate(alone) if isinstance(answers[name], dict)]
        independent = all(self._alike(whole, own, part, checked) for own, part in parts)
        return Batches(none=verdicts[_NONE], single=single, independent=independent)

    def _alike(self, whole: Feed, own: slice, part: Any, checked: Checked) -> bool:
        """Whether some examples of a batch are answered as they are by themselves."""
        expected = {name: values[own] if values.ndim else values for name, values in whole.items()}
        tolerance = max(self.tolerance, TOLERANCE)
        try:
            return all(difference.relative <= tolerance for difference in compare(expected, part, checked.scales))
        except ValidationFailed:
            return False


def _without_ties(case: str, answered: Feed | str) -> Feed | str:
    """Of repeated examples the numbers alone: which of equal scores comes first is nobody's to say."""
    if isinstance(answered, str) or not case.startswith("size "):
        return answered
    return {name: values for name, values in answered.items() if values.dtype.kind == "f"}


def _first_that_answers(models: Sequence[Callable[[Feed], Feed]], feed: Feed) -> Feed | str:
    """The module's own answer, or the frozen module's, whose lookups guard their ids; why there is none."""
    reason = ""
    for answer in models:
        try:
            return answer(feed)
        except Exception as error:  # whatever the user's forward raises
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return reason


def raise_problems(problems: Sequence[str]) -> None:
    """Refuse a graph whose answers differ where the model answers.

    Raises:
        ValidationFailed: there is a problem.
    """
    if problems:
        raise ValidationFailed("the graph answers differently from PyTorch", where=problems[0])
