"""What reads the rows of a model, seen in its graph: where a basis can go."""

from __future__ import annotations

import numpy as np

from amtl_export.compression.metric import Rows
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.table import CodedEmbedding
from amtl_export.graph.facts import WEIGHT, fact
from amtl_export.graph.passes.fold_bases import decodes
from amtl_export.graph.pipeline import fold_bases
from amtl_export.graph.rewrite import sizes
from amtl_export.graph.segments import Segment
from amtl_export.graph.trace import trace
from amtl_export.graph.weights import PAIRS, Part
from amtl_export.principal.basis import Matrix


class Readers:
    """The graph of a model whose rows are written in other bases, what could be folded being folded.

    Args:
        coded: the model.
    """

    def __init__(self, coded: FrozenModel) -> None:
        self._coded = coded
        self._graph = trace(coded)
        fold_bases(self._graph)
        parts = {id(part): f"{name}.bases" for name, part in coded.module.model.named_modules()}
        self._tables: dict[str, tuple[str, CodedEmbedding]] = {
            parts[id(table)]: (path, table) for path, table in coded.coded.items()
        }

    def projected(self) -> set[Rows]:
        """The fields' rows that something reads decoded, so that a projection stays in the graph."""
        found: set[Rows] = set()
        for node in decodes(self._graph):
            name = fact(node.inputs[1], WEIGHT) or ""
            found |= {rows for field in node.attributes["fields"].as_ints() for rows in self._rows(name, field)}
        return found

    def multiply_adds(self) -> int:
        """Of the projections that stay, for one example with one value in each multi-valued field."""
        total = 0
        for node in decodes(self._graph):
            assert node.inputs[1] is not None
            _, k, D = sizes(node.inputs[1])
            total += len(node.attributes["fields"].as_ints()) * k * D
        return total

    def layer_metrics(self) -> dict[Rows, Matrix]:
        """G = Wᵀ W of each field's rows, W the columns of the linear layers that read them."""
        model = self._coded.module.model
        bases = {name: buffer.numpy() for name, buffer in model.named_buffers()}
        metrics: dict[Rows, Matrix] = {}
        for part in map(Part.described, self._graph.graph.initializers.values()):
            if part is None or not part.fold or part.form == PAIRS:
                continue
            weight = model.get_parameter(part.weight).detach().numpy().astype(np.float64)
            begin = 0
            for segment in part.fold:
                columns = (weight.T if part.transposed else weight)[:, begin : begin + segment.width]
                self._add(metrics, segment, columns, bases)
                begin += segment.width
        return metrics

    def _add(self, metrics: dict[Rows, Matrix], segment: Segment, columns: Matrix, bases: dict[str, Matrix]) -> None:
        if not segment.bases:
            return
        D = bases[segment.bases].shape[2]
        for number, field in enumerate(segment.fields):
            own = columns[:, number * D : (number + 1) * D]
            for rows in self._rows(segment.bases, field):
                metrics[rows] = metrics.get(rows, np.zeros((D, D))) + own.T @ own

    def _rows(self, name: str, basis: int) -> list[Rows]:
        """The fields' rows that are written in a basis."""
        path, table = self._tables[name]
        return [(path, offset) for offset, own in zip(table.offsets, table.basis_of, strict=True) if own == basis]
