"""Parts of a model's weights as initializers, which say in their metadata what they are parts of.

`facts.WEIGHT` names the weight, `COLUMNS` its columns in order (`0:64,128:192`), `FORM` how they lie: `columns`;
`panels` of a RaggedLinear; `quantized_64`, as a RaggedLinearInt8 over rows of 64 numbers takes them, and `scales`; of
a layer in int8 `int8_columns` or `int8_panels`, and `int8_scales`; of one that multiplies signed numbers
`int8_signed_columns`, or `int8_offsets` beside the panels;
`pairs` of bases, what products of pairs of rows are in coordinates (see `pair_products`).
`TRANSPOSED` says that they are columns of the transposed weight. `FOLD` says that bases are folded into the weight
first, and its columns are counted behind that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from amtl_export.errors import ValidationFailed
from amtl_export.graph.facts import COLUMNS as COLUMNS_FACT
from amtl_export.graph.facts import FOLD, FORM, TRANSPOSED, WEIGHT, fact
from amtl_export.graph.linear_int8 import weight_columns, weight_panels, weight_scales, zero_offsets
from amtl_export.graph.ragged import panels, quantized_panels, scales_of
from amtl_export.graph.rewrite import initializer
from amtl_export.graph.segments import Segment, folded, pair_products

COLUMNS, PANELS, SCALES, QUANTIZED, PAIRS = "columns", "panels", "scales", "quantized_", "pairs"
INT8_COLUMNS, INT8_PANELS, INT8_SCALES, INT8_OFFSETS = "int8_columns", "int8_panels", "int8_scales", "int8_offsets"
INT8_SIGNED_COLUMNS = "int8_signed_columns"

#: More than any layer has, and few enough to be counted out.
_MOST_COLUMNS = 1 << 24

#: Of a layer in int8.
INT8_FORMS = frozenset({INT8_COLUMNS, INT8_SIGNED_COLUMNS, INT8_PANELS, INT8_SCALES, INT8_OFFSETS})

#: Of a layer that multiplies signed numbers.
SIGNED_FORMS = (INT8_SIGNED_COLUMNS, INT8_OFFSETS)

_FORMS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    PANELS: panels,
    SCALES: scales_of,
    INT8_COLUMNS: weight_columns,
    INT8_SIGNED_COLUMNS: weight_columns,
    INT8_PANELS: weight_panels,
    INT8_SCALES: weight_scales,
    INT8_OFFSETS: zero_offsets,
}


def quantized_form(dim: int) -> str:
    """The form of a weight that is quantized over rows of `dim` numbers."""
    return f"{QUANTIZED}{dim}"


@dataclass(frozen=True)
class Part:
    """Some columns (positions on the last axis) of a weight.

    Attributes:
        weight: the weight's name in the model.
        columns: which, in order; of a folded weight, those that it has then.
        form: how they lie: `columns`, `panels`, `quantized_D`, or `scales` of quantized ones.
        transposed: whether they are columns of the transposed weight.
        fold: what the weight multiplies, where bases are folded into it.
    """

    weight: str
    columns: tuple[int, ...]
    form: str = COLUMNS
    transposed: bool = False
    fold: tuple[Segment, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """As metadata."""
        facts = {WEIGHT: self.weight, COLUMNS_FACT: _written(self.columns), FORM: self.form}
        facts |= {TRANSPOSED: "yes"} if self.transposed else {}
        return facts | ({FOLD: "\n".join(segment.text for segment in self.fold)} if self.fold else {})

    @classmethod
    def described(cls, value: ir.Value) -> Part | None:
        """What an initializer's metadata says that it is a part of; None if it is none, or a whole.

        Raises:
            ValidationFailed: the metadata cannot be read.
        """
        weight, ranges, form = (fact(value, key) for key in (WEIGHT, COLUMNS_FACT, FORM))
        if weight is None or ranges is None or form is None:
            return None
        try:
            columns = _read(ranges)
            fold = tuple(Segment.of(text) for text in (fact(value, FOLD) or "").split("\n") if text)
        except ValueError as error:
            what = "what an initializer is a part of cannot be read"
            raise ValidationFailed(what, where=str(value.name), found=error) from None
        return cls(weight, columns, form, fact(value, TRANSPOSED) is not None, fold)

    def of(self, whole: npt.NDArray[Any], bases: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The part, from the whole array and the bases that may be folded into it, by their names."""
        return arranged(np.ascontiguousarray(self.turned(whole, bases)[..., list(self.columns)]), self.form)

    @property
    def bases(self) -> set[str]:
        """Names of those that are folded in."""
        return {segment.bases for segment in self.fold if segment.bases}

    def unknown_bases(self, tensors: Collection[str]) -> set[str]:
        """Bases that are folded in and that a model does not have."""
        return self.bases - set(tensors)

    def turned(self, whole: npt.NDArray[Any], bases: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What `columns` are columns of."""
        if self.form == PAIRS:
            return pair_products(self.fold, bases)
        turned = whole.T if self.transposed else whole
        return folded(turned, self.fold, bases) if self.fold else turned


def arranged(weight: npt.NDArray[Any], form: str) -> npt.NDArray[Any]:
    """A weight in a form."""
    if form in (COLUMNS, PAIRS):
        return weight
    made = _FORMS.get(form)
    return made(weight) if made else quantized_panels(weight, int(form.removeprefix(QUANTIZED)))


def _fold_text(part: Part) -> str:
    """What is folded into a part, for its name; one weight may have several bases folded in, each for another layer."""
    return f"folded/{';'.join(part.facts[FOLD].splitlines()).replace(' ', ':')}/" if part.fold else ""


def part_of(graph: ir.Graph, value: ir.Value, columns: Sequence[int], form: str = COLUMNS) -> ir.Value:
    """An initializer with some columns of another one, which may be a part itself."""
    array, known, weight = _array(value), Part.described(value), fact(value, WEIGHT)
    if form == COLUMNS and list(columns) == list(range(array.shape[-1])):
        return value
    of_whole = tuple(known.columns[i] for i in columns) if known else tuple(columns)
    transposed, fold = (known.transposed, known.fold) if known else (False, ())
    part = Part(str(weight or value.name), of_whole, form, transposed, fold)
    name = f"{form}/{_written(of_whole)}/{_fold_text(part)}{'transposed/' if transposed else ''}{part.weight}"
    chosen = np.ascontiguousarray(array[..., list(columns)])
    return initializer(graph, name, arranged(chosen, form), part.facts if weight is not None else {})


def transposed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An initializer with the transpose of another one; the weight itself where that is its transpose."""
    array, known, weight = np.ascontiguousarray(_array(value).T), Part.described(value), fact(value, WEIGHT)
    if weight is None:
        return initializer(graph, f"transposed/{value.name}", array)
    if known is not None and known.transposed and not known.fold:
        same = (v for v in graph.initializers.values() if fact(v, WEIGHT) == weight and Part.described(v) is None)
        return next(same, None) or initializer(graph, f"weight/{weight}", array, {WEIGHT: weight})
    part = Part(weight, tuple(range(array.shape[-1])), transposed=True)
    return initializer(graph, f"transposed/{weight}", array, part.facts)


def folded_weight(graph: ir.Graph, value: ir.Value, segments: Sequence[Segment]) -> ir.Value:
    """An initializer with a whole weight `[outputs, inputs]` into which the graph's bases are folded."""
    array, known, weight = _array(value), Part.described(value), fact(value, WEIGHT)
    initializers = {fact(own, WEIGHT): own for own in graph.initializers.values()}
    bases = {own.bases: _array(initializers[own.bases]) for own in segments if own.bases}
    made = folded(array, segments, bases)
    transposed = known is not None and known.transposed
    part = Part(str(weight or value.name), tuple(range(made.shape[1])), COLUMNS, transposed, tuple(segments))
    name = f"{_fold_text(part)}{'transposed/' if transposed else ''}{part.weight}"
    return initializer(graph, name, made, part.facts if weight is not None else {})


def pairs_weight(graph: ir.Graph, segments: Sequence[Segment]) -> ir.Value:
    """An initializer with the graph's bases as `pair_products`."""
    initializers = {fact(own, WEIGHT): own for own in graph.initializers.values()}
    bases = {own.bases: _array(initializers[own.bases]) for own in segments if own.bases}
    made = pair_products(segments, bases)
    part = Part(next(iter(bases)), tuple(range(len(made))), PAIRS, fold=tuple(segments))
    return initializer(graph, f"pairs/{_fold_text(part)}{part.weight}", made, part.facts)


def _array(value: ir.Value) -> npt.NDArray[Any]:
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def bytes_of(graph: ir.Model, names: Collection[str]) -> int:
    """Bytes of some weights as they stand in a graph; of those that it does not hold, none."""
    values = graph.graph.initializers.values()
    return sum(_array(value).nbytes for value in values if fact(value, WEIGHT) in names)


def parts_of(graph: ir.Graph) -> list[Part]:
    """All parts of weights in a graph that something reads."""
    values = (value for value in graph.initializers.values() if value.uses())
    return [part for value in values if (part := Part.described(value))]


def multiplies_int8(graph: ir.Model) -> bool:
    """Whether a graph has layers that quantize what they multiply."""
    return any(part.form == INT8_SCALES for part in parts_of(graph.graph))


def _read(ranges: str) -> tuple[int, ...]:
    """`0:3,6:8` as 0, 1, 2, 6, 7."""
    ends = [span.split(":") for span in ranges.split(",")]
    spans = [range(int(begin), int(end)) for begin, end in ends]
    if sum(map(len, spans)) > _MOST_COLUMNS:
        raise ValueError(f"{sum(map(len, spans))} columns")
    return tuple(column for span in spans for column in span)


def _written(columns: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as `0:3,6:8`."""
    starts = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1] + 1]
    ends = [*starts[1:], len(columns)]
    return ",".join(f"{columns[a]}:{columns[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
