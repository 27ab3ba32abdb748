"""A bundle held against what `export` writes: the graph is made anew from the source, with the settings that it states.

Export is deterministic, so the two are the same, byte by byte, or the bundle is none that export wrote. Of another
version of the exporter the graph need not be the same: then every number of it is held against the source's, and its
answers to drawn inputs against PyTorch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.contents import Built, versions
from amtl_export.bundle.export import ExportConfig, build
from amtl_export.errors import InputError
from amtl_export.files import producer
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.spec import Feed
from amtl_export.typed import typed
from amtl_export.validation.provenance import digest, load_graph, weights_explained
from amtl_export.validation.same_graph import GraphProblems, graph_problems

#: Whole numbers that a graph may hold anywhere: axes, and the bounds of a shape.
_PLAIN = frozenset(range(-8, 17))

#: Operators that move numbers about, which another version may have more of.
_MOVES = frozenset({
    "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip

#: Rows of each drawn batch, and how many there are.
_ROWS, _BATCHES = 256, 4


@dataclass(frozen=True)
class Rebuilt:
    """What export makes of the source, and where the bundle's graph differs from it.

    Attributes:
        built: by the exporter at hand.
        graph: differences; none of them counts where the bundle is of another version.
        exporter: package → version that the bundle states, if it is another than the one at hand.
    """

    built: Built
    graph: GraphProblems
    exporter: dict[str, str]

    @property
    def same(self) -> bool:
        """Whether the bundle's graph is the one that was made."""
        return not self.graph.structure and not self.graph.numbers

    @property
    def may_run(self) -> bool:
        """Whether the graph computes what one does that export writes, up to the numbers in it; no other is run."""
        return self.graph.same_nodes or bool(self.exporter)


def rebuild(bundle: Bundle, frozen: FrozenModel) -> Rebuilt:
    """Make a bundle's graph anew.

    Raises:
        InputError: the bundle does not say how it was made, or cannot have been made so.
        ValidationFailed: its graph cannot be parsed.
    """
    report, file = bundle.report(), bundle.path / "report.json"
    config = typed(ExportConfig, report.get("settings"), file, "the bundle's settings cannot be read")
    stated = _exporter(report.get("versions"), bundle.signature.producer, file)
    origin = report.get("origin")
    name = origin.get("run") if isinstance(origin, dict) else None
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) < 256:
        raise InputError("a bundle does not say what it is of", where=file, found=f"origin.run: {name!r}")
    # A run's folder may have been renamed, a factory moved.
    built = build(replace(frozen, origin=frozen.origin | {"run": name}), config)
    other = {} if stated == _exporter(versions(), producer(), file) else stated
    if other:
        _state_version(built.model, bundle.signature.producer)
    return Rebuilt(built, graph_problems(bundle, built.model), other)


def _exporter(packages: Any, mark: Any, file: object) -> dict[str, str]:
    """All versions that a graph depends on."""
    known = {**packages, **mark} if isinstance(packages, dict) and isinstance(mark, dict) else {}
    wanted = {*versions(), *producer()}
    if set(known) != wanted or any(
        not isinstance(v, str) or not v.isprintable() or len(v) > 64 for v in known.values()
    ):
        raise InputError("a bundle does not say which exporter wrote it", where=file, found=f"versions: {packages}")
    return {str(key): str(value) for key, value in known.items()}


def _state_version(model: ir.Model, mark: dict[str, str]) -> None:
    """Let a graph say that the bundle's version wrote it."""
    model.producer_name, model.producer_version = mark["tool"], mark["version"]
    model.metadata_props["amtl.tool"] = f"{mark['tool']} {mark['version']}"


def strangers(bundle: Bundle, rebuilt: Rebuilt) -> Iterator[str]:
    """What a graph of another version holds that cannot be the source's: numbers and operators.

    An initializer is the source's if it has the bits of one that the exporter at hand writes, or is a weight or a part
    of one; whole numbers may also be such as are in those.

    Raises:
        ValidationFailed: graph or weights cannot be read.
    """
    own = list(_initializers(rebuilt.built.model))
    known = {digest(array) for _, array in own}
    numbers = {int(x) for _, a in own if a.dtype.kind in "iu" and a.size <= 64 for x in a.ravel()} | _PLAIN
    model = load_graph(bundle.model)
    explained = weights_explained(model.graph, rebuilt.built.frozen)
    for name, array in _initializers(model):
        whole = array.dtype.kind in "iub" and array.size <= 64 and {int(x) for x in array.ravel()} <= numbers
        if digest(array) not in known and name not in explained and not whole:
            yield f"initializer {name}: its numbers are not the source's"
    usual = _operators(rebuilt.built.model) | {("", name) for name in _MOVES}
    for node in itertools.chain(model.graph, *(function for function in model.functions.values())):
        kind = (node.domain, node.op_type)
        constant = node.op_type == "Constant" and not _is_plain_constant(node, numbers)
        if kind not in usual or constant:
            yield f"node {node.name} ({node.op_type}): the exporter at hand writes no such node"


def _initializers(model: ir.Model) -> Iterator[tuple[str, Any]]:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value.numpy()


def _operators(model: ir.Model) -> set[tuple[str, str]]:
    nodes = itertools.chain(*model.graphs(), *model.functions.values())
    return {(node.domain, node.op_type) for node in nodes}


def _is_plain_constant(node: ir.Node, numbers: set[int]) -> bool:
    """Whether a Constant holds whole numbers that graphs have anyway, or a float of those."""
    values: list[float] = []
    for attribute in node.attributes.values():
        held = attribute.value
        values += (
            np.atleast_1d(held.numpy() if isinstance(held, ir.TensorProtocol) else np.asarray(held)).ravel().tolist()
        )
    return all(isinstance(x, (int, float)) and x in numbers for x in values)


def drawn_feeds(frozen: FrozenModel) -> Iterator[Feed]:
    """Random inputs of a model: every id of its columns, numbers small and large; batches of a fixed seed."""
    random = np.random.default_rng(20)
    for _ in range(_BATCHES):
        feed: Feed = {}
        for spec in frozen.inputs:
            like = frozen.example[spec.name]
            if spec.batch_axis != 0:
                return  # examples that hang together are tried as they are
            shape = (_ROWS, *like.shape[1:])
            if spec.integer:
                sizes = [column.size or 2 for column in spec.columns] or [int(like.max(initial=0)) + 1]
                most = np.array(sizes if len(sizes) == like.shape[-1] else max(sizes))
                feed[spec.name] = random.integers(0, np.maximum(most, 1), shape).astype(like.dtype)
            elif like.dtype.kind == "f":
                spread = 10.0 ** random.integers(-2, 5, shape)
                feed[spec.name] = (
                    (random.standard_normal(shape) * spread).round(random.integers(0, 3)).astype(like.dtype)
                )
            else:
                feed[spec.name] = random.choice(like.ravel(), shape) if like.size else np.zeros(shape, like.dtype)
        yield feed
