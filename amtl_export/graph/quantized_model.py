"""The PyTorch model that a graph with quantized weights is held against."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from amtl_export.freezing.swap import frozen_tables
from amtl_export.graph.facts import WEIGHT, fact
from amtl_export.graph.linear_int8 import SIGNED, UNSIGNED
from amtl_export.graph.quantized_linear import bases_of, quantizable, quantize_layer
from amtl_export.graph.ragged import fake_quantized_weight
from amtl_export.graph.segments import Bases, Segment, inverse, places
from amtl_export.graph.weights import INT8_SCALES, PAIRS, SCALES, SIGNED_FORMS, Part, parts_of

M = TypeVar("M", bound=nn.Module)


def with_quantized_weights(module: M, graph: ir.Model) -> M:
    """The module with quantized layers and fake-quantized weights where a graph has them; itself if it has none.

    A layer in int8 that multiplies coordinates must be given the graph's own: one more rounding turns a quantized
    number over. So where nothing is left of a basis, the rows of the copy are their coordinates, and then zeros.

    Args:
        module: frozen, as it was exported; the copy shares its tables.
        graph: the bundle's.
    """
    exact = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    bases = bases_of(module)
    parts = [part for part in parts_of(graph.graph) if part.weight in exact]
    layers = [part for part in parts if part.form == INT8_SCALES]
    if not layers and not any(part.form == SCALES for part in parts):
        return module
    reference = copy.deepcopy(module, {id(table): table for table in frozen_tables(module).values()})
    gone = bases_left_out(graph.graph, quantizable(module).weights) if any(part.fold for part in layers) else set()
    for name in (name for name, own in bases.items() if any(np.array_equal(own, bases[other]) for other in gone)):
        buffer = reference.get_buffer(name)  # of equal ones the graph has one
        buffer.copy_(torch.eye(*buffer.shape[1:]).expand_as(buffer))
    for name in {part.weight: None for part in parts if part.form == SCALES or part.bases & gone}:
        own = [part for part in parts if part.weight == name and part.form != INT8_SCALES]
        if own:
            weight = _as_in_graph(exact[name], own, bases, gone)
            reference.get_parameter(name).data = torch.from_numpy(weight)
    signed = {part.weight for part in parts if part.form in SIGNED_FORMS}
    for part in layers:
        activation = SIGNED if part.weight in signed else UNSIGNED
        folds = (part.turned(exact[part.weight], bases), places(part.fold, bases)) if part.fold else ()
        quantize_layer(reference, part.weight, activation, *folds)
    return reference


def _as_in_graph(
    whole: npt.NDArray[Any], parts: Sequence[Part], bases: Bases, gone: Collection[str]
) -> npt.NDArray[Any]:
    """A weight of which parts are quantized or folded in a graph, for what the module multiplies."""
    first = parts[0]
    weight = first.turned(whole, bases).copy()
    for part in parts:
        if part.form == SCALES:
            columns = list(part.columns)
            weight[:, columns] = fake_quantized_weight(weight[:, columns])
    if not first.fold:
        rows = weight
    elif first.bases <= set(gone):
        rows = np.zeros_like(whole)
        rows[:, places(first.fold, bases)] = weight
    else:
        rows = (weight @ inverse(first.fold, bases).T).astype(np.float32)
    return np.ascontiguousarray(rows.T if first.transposed else rows)


def bases_left_out(graph: ir.Graph, weights: Collection[str]) -> set[str]:
    """Bases of which nothing is left in a graph but in weights, each with one fold: the model can do without them.

    Args:
        graph: behind `FoldBases`.
        weights: of plain linear layers, which can be others in PyTorch's model.
    """
    parts = parts_of(graph)
    folds: dict[str, set[tuple[Segment, ...]]] = {}
    for part in parts:
        folds.setdefault(part.weight, set()).add(part.fold)
    read = {fact(value, WEIGHT) or "" for value in graph.initializers.values() if value.uses()}  # rows are decoded
    named = set[str]().union(*(part.bases for part in parts))
    kept = named & read
    while True:
        more = set[str]()
        for part in parts:
            plain = part.form != PAIRS and part.weight in weights and len(folds[part.weight]) == 1
            if not (plain and not part.transposed and part.bases.isdisjoint(kept)):
                more |= part.bases
        if more <= kept:
            return named - kept
        kept |= more
