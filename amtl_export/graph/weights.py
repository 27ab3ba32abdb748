"""Parts of a model's weights as initializers, which say in their metadata what they are parts of.

`facts.WEIGHT` names the weight, `COLUMNS` its columns in order (`0:64,128:192`), `FORM` how they lie: `columns`;
`panels` of a RaggedLinear; `quantized_64`, as a RaggedLinearInt8 over rows of 64 numbers takes them, and `scales`; of
a layer in int8 `int8_columns` or `int8_panels`, `int8_scales`, and `int8_offsets` where it multiplies signed numbers;
`pairs` of bases, what products of pairs of rows are in coordinates (see `pair_products`).
`TRANSPOSED` says that they are columns of the transposed weight. `FOLD` says that bases are folded into the weight
first, and its columns are counted behind that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from amtl_export.freezing.swap import frozen_tables
from amtl_export.graph.facts import COLUMNS as COLUMNS_FACT
from amtl_export.graph.facts import FOLD, FORM, TRANSPOSED, WEIGHT, fact
from amtl_export.graph.linear_int8 import SIGNED, UNSIGNED, weight_columns, weight_panels, weight_scales, zero_offsets
from amtl_export.graph.quantized_linear import quantize_layers
from amtl_export.graph.ragged import fake_quantized_weight, panels, quantized_panels, scales_of
from amtl_export.graph.rewrite import initializer

COLUMNS, PANELS, SCALES, QUANTIZED, PAIRS = "columns", "panels", "scales", "quantized_", "pairs"
INT8_COLUMNS, INT8_PANELS, INT8_SCALES, INT8_OFFSETS = "int8_columns", "int8_panels", "int8_scales", "int8_offsets"

_FORMS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    PANELS: panels,
    SCALES: scales_of,
    INT8_COLUMNS: weight_columns,
    INT8_PANELS: weight_panels,
    INT8_SCALES: weight_scales,
    INT8_OFFSETS: zero_offsets,
}

M = TypeVar("M", bound=nn.Module)


def quantized_form(dim: int) -> str:
    """The form of a weight that is quantized over rows of `dim` numbers."""
    return f"{QUANTIZED}{dim}"


@dataclass(frozen=True)
class Segment:
    """Neighbouring columns of what a layer multiplies.

    Attributes:
        width: columns of the weight.
        bases: name of the bases `[N, k, D]` that the rows are written in; empty for numbers that are no rows.
        fields: the basis of each of the rows, side by side.
    """

    width: int
    bases: str = ""
    fields: tuple[int, ...] = ()

    def folded(self, weight: npt.NDArray[Any], bases: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The weight's columns `[outputs, width]` for coordinates instead of rows: `[outputs, rows · k]`."""
        chosen = bases[list(self.fields)].astype(np.float64)  # [K, k, D]
        rows = weight.reshape(len(weight), *chosen.shape[::2]).astype(np.float64)  # [outputs, K, D]
        made: npt.NDArray[np.float32] = np.einsum("ocd,ckd->ock", rows, chosen).astype(np.float32)
        return made.reshape(len(weight), -1)

    def unfolded(self, weight: npt.NDArray[Any], bases: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Columns for rows that answer alike as those for coordinates do."""
        inverse = np.linalg.pinv(bases[list(self.fields)].astype(np.float64))  # [K, D, k]
        rows = weight.reshape(len(weight), *inverse.shape[::2]).astype(np.float64)
        made: npt.NDArray[np.float32] = np.einsum("ock,cdk->ocd", rows, inverse).astype(np.float32)
        return made.reshape(len(weight), -1)


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
        return facts | ({FOLD: "\n".join(map(_segment_text, self.fold))} if self.fold else {})

    @classmethod
    def described(cls, value: ir.Value) -> Part | None:
        """What an initializer's metadata says that it is a part of; None if it is none, or a whole."""
        weight, ranges, form = (fact(value, key) for key in (WEIGHT, COLUMNS_FACT, FORM))
        if weight is None or ranges is None or form is None:
            return None
        ends = [span.split(":") for span in ranges.split(",")]
        columns = tuple(i for begin, end in ends for i in range(int(begin), int(end)))
        fold = tuple(_segment(text) for text in (fact(value, FOLD) or "").split("\n") if text)
        return cls(weight, columns, form, fact(value, TRANSPOSED) is not None, fold)

    def of(self, whole: npt.NDArray[Any], bases: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The part, from the whole array and the bases that may be folded into it, by their names."""
        return arranged(np.ascontiguousarray(self.turned(whole, bases)[..., list(self.columns)]), self.form)

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


def folded(
    weight: npt.NDArray[Any], segments: Sequence[Segment], bases: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """A weight `[outputs, inputs]` that multiplies coordinates where it multiplied rows."""
    parts = []
    for segment, begin, end in _spans(segments):
        columns = weight[:, begin:end]
        parts.append(segment.folded(columns, bases[segment.bases]) if segment.bases else columns)
    return np.concatenate(parts, axis=1)


def pair_products(segments: Sequence[Segment], bases: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """M `[k, k]` by which z · M · zᵀ = |Σ rows|² - Σ |rows|², of the coordinates z of rows side by side.

    M is B · Bᵀ, B the bases below each other, without the products of a row with itself. Rows in no basis are their
    own coordinates.
    """
    D = next(bases[own.bases].shape[2] for own in segments if own.bases)
    parts = []
    for own in segments:
        count = len(own.fields) if own.bases else own.width // D
        parts += list(bases[own.bases][list(own.fields)]) if own.bases else [np.eye(D)] * count
    row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    together = np.concatenate(parts).astype(np.float64)
    made: npt.NDArray[np.float32] = np.where(row[:, None] == row, 0.0, together @ together.T).astype(np.float32)
    return made


def unfolded(
    weight: npt.NDArray[Any], segments: Sequence[Segment], bases: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """A weight for rows that answers as a folded one does for their coordinates."""
    parts, begin = [], 0
    for segment in segments:
        columns = segment.width
        if segment.bases:
            columns = len(segment.fields) * bases[segment.bases].shape[1]
        part = weight[:, begin : begin + columns]
        parts.append(segment.unfolded(part, bases[segment.bases]) if segment.bases else part)
        begin += columns
    return np.concatenate(parts, axis=1)


def _spans(segments: Sequence[Segment]) -> Iterator[tuple[Segment, int, int]]:
    begin = 0
    for segment in segments:
        yield segment, begin, begin + segment.width
        begin += segment.width


def _fold_text(part: Part) -> str:
    """What is folded into a part, for its name; one weight may have several bases folded in, each for another layer."""
    return f"folded/{';'.join(part.facts[FOLD].splitlines()).replace(' ', ':')}/" if part.fold else ""


def _segment_text(segment: Segment) -> str:
    return f"{segment.width} {segment.bases} {','.join(map(str, segment.fields))}".strip()


def _segment(text: str) -> Segment:
    width, _, rows = text.partition(" ")
    bases, _, fields = rows.rpartition(" ")  # a module's name may have spaces
    return Segment(int(width), bases, tuple(map(int, fields.split(",")))) if rows else Segment(int(width))


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


def multiplies_int8(graph: ir.Model) -> bool:
    """Whether a graph has layers that quantize what they multiply."""
    parts = map(Part.described, graph.graph.initializers.values())
    return any(part is not None and part.form == INT8_SCALES for part in parts)


def with_quantized_weights(module: M, graph: ir.Model) -> M:
    """The module with quantized layers and fake-quantized weights where a graph has them; itself if it has none.

    Args:
        module: frozen, as it was exported; the copy shares its tables.
        graph: the bundle's.
    """
    exact = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    bases = {name: buffer.numpy() for name, buffer in module.named_buffers() if name.endswith(".bases")}
    parts = [Part.described(value) for value in graph.graph.initializers.values()]
    quantized = [part for part in parts if part and part.form == SCALES and part.weight in exact]
    signed = {part.weight for part in parts if part and part.form == INT8_OFFSETS}
    layers = [part.weight for part in parts if part and part.form == INT8_SCALES and part.weight in exact]
    if not quantized and not layers:
        return module
    reference = copy.deepcopy(module, {id(table): table for table in frozen_tables(module).values()})
    for name in {part.weight: None for part in quantized}:
        own = [part for part in quantized if part.weight == name]
        reference.get_parameter(name).data = torch.from_numpy(_fake_quantized(exact[name], own, bases))
    quantize_layers(reference, {name: SIGNED if name in signed else UNSIGNED for name in layers})
    return reference


def _fake_quantized(
    whole: npt.NDArray[Any], parts: Sequence[Part], bases: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """A weight of which some parts are quantized in a graph."""
    weight = parts[0].turned(whole, bases).copy()
    for part in parts:
        columns = list(part.columns)
        weight[:, columns] = fake_quantized_weight(weight[:, columns])
    rows = unfolded(weight, parts[0].fold, bases) if parts[0].fold else weight
    return np.ascontiguousarray(rows.T if parts[0].transposed else rows)


def _written(columns: Sequence[int]) -> str:
    """0, 1, 2, 6, 7 as 0:3,6:8."""
    starts = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1] + 1]
    ends = [*starts[1:], len(columns)]
    return ",".join(f"{columns[a]}:{columns[b - 1] + 1}" for a, b in zip(starts, ends, strict=True))
